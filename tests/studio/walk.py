"""Walks every view of the page as a person would, in Debian's Chromium, and has axe-core look at each.

Arguments: the address of a studio with the models `org/base` and `org/tuned`, the path of a model that takes a while,
and the address of a studio that asks for tokens, with one. Prints what each view was found to have.
"""
import json
import re
import sys
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import expect, sync_playwright

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
own, slow, guarded, token = sys.argv[1:]
expect.set_options(timeout=60_000)
seen = []
failed = []


def look(page, name):
    """Has axe-core look at the view, and sees that nothing runs out of the window."""
    # The policy of the page lets no script in: axe runs beside it.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    for one in found["violations"]:
        nodes = [node["html"][:200] for node in one["nodes"]]
        failed.append(f"{name}: {one['id']} ({one['impact']}): {one['help']}: {nodes}")
    # What is not there is not written as a word.
    said = page.locator("main").inner_text()
    for word in ["undefined", "null", "[object", "NaN"]:
        if word in said:
            failed.append(f"{name}: it says {word}")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        failed.append(f"{name}: {wide} pixels run out of the window")
    seen.append(name)


def open_view(page, view, heading):
    page.goto(f"{own}/#/{view}")
    expect(page.get_by_role("heading", level=2, name=heading).first).to_be_visible()


def submitted(page, model, name, preset="bnb_nf4"):
    open_view(page, "new", "Submit a job")
    page.locator("[name=model]").fill(model)
    page.locator("[name=preset]").select_option(preset)
    page.locator("[name=name]").fill(name)
    expect(page.locator("#likely")).to_contain_text("Reads")
    page.get_by_role("button", name="Submit").click()
    expect(page).to_have_url(re.compile("#/job/[0-9a-f]{32}$"))
    return page.url.rsplit("/", 1)[1]


def walk(page):
    """The first visit; submit, watch, download, cancel, retry, compare."""
    open_view(page, "new", "Submit a job")
    look(page, "first visit")
    page.get_by_role("button", name="Try the sample model").click()
    expect(page).to_have_url(re.compile("#/job/[0-9a-f]{32}$"))
    expect(page.locator("dl strong")).to_have_text("succeeded")
    expect(page.locator("svg.lineage")).to_contain_text("sample/austen-bnb_nf4")
    expect(page.get_by_role("link", name="sample/austen-bnb_nf4").first).to_be_visible()
    look(page, "sample's job")
    open_view(page, "new", "Submit a job")
    expect(page.get_by_role("button", name="Try the sample model")).to_have_count(0)
    look(page, "submit")
    for kind in ["optimize", "delta/compress", "compress"]:
        page.locator("[name=kind]").select_option(kind)
        look(page, f"submit {kind}")
    job = submitted(page, "org/base", "org/walked")
    expect(page.locator("dl strong")).to_have_text("succeeded")
    expect(page.get_by_role("log")).to_contain_text("succeeded")
    expect(page.get_by_role("heading", name="Lineage")).to_be_visible()
    expect(page.locator("svg.lineage")).to_contain_text("nf4, 4 bits")
    look(page, "job succeeded")
    with page.expect_download() as download:
        page.get_by_role("link", name="config.json", exact=True).click()
    config = json.loads(Path(download.value.path()).read_text())
    assert config["quantization_config"]["quant_method"] == "bitsandbytes", config
    # The lineage leads to what it was made from.
    page.locator("svg.lineage a").first.click()
    expect(page.get_by_role("heading", level=2)).to_contain_text("org/base")

    submitted(page, slow, "org/slow")
    expect(page.locator("dl strong")).to_have_text("running")
    look(page, "job running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("dl strong")).to_have_text("cancelled")
    look(page, "job cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Tries again")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("dl strong")).to_have_text("cancelled")

    open_view(page, "jobs", "Jobs")
    expect(page.get_by_role("row")).to_have_count(5)
    page.locator("[name=status]").select_option("succeeded")
    expect(page.get_by_role("row")).to_have_count(3)
    page.locator("[name=status]").select_option("")
    look(page, "jobs")
    page.get_by_role("link", name="org/walked").click()
    expect(page).to_have_url(re.compile(job))

    open_view(page, "artifacts", "Artifacts")
    look(page, "artifacts")
    page.locator("[name=first]").select_option("org/base:latest")
    page.locator("[name=second]").select_option("org/tuned:latest")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Tensors that differ").first).to_be_visible()
    look(page, "diff")


def hostile(page):
    """Names that are markup are shown as they are: nothing of them runs, and the lineage of such a model is drawn."""
    evil = "<img src=x onerror=alert(1)>"
    open_view(page, "artifact/org%2Fevil%3Alatest", "org/evil")
    expect(page.get_by_text(f"{evil}.json", exact=True)).to_be_visible()
    expect(page.get_by_text(evil).last).to_be_visible()
    expect(page.locator("svg.lineage")).to_be_visible()
    page.goto(f"{own}/#/artifact/{'%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E'}")
    expect(page.get_by_role("alert")).to_be_visible()
    page.goto(f"{own}/#/job/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.locator("main img, main script").count() == 0


def keyboard(page):
    """The first key leads past the navigation, and the focus follows the view."""
    open_view(page, "jobs", "Jobs")
    page.reload()
    expect(page.get_by_role("heading", level=2, name="Jobs")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("link", name="Artifacts").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=2, name="Artifacts")).to_be_visible()
    page.wait_for_function("document.activeElement.id === 'main'")


def every_view(page, how):
    job = page.request.get(f"{own}/jobs?status=succeeded").json()["jobs"][0]["id"]
    for view, heading in [
        ("new", "Submit a job"), ("jobs", "Jobs"), (f"job/{job}", "org/walked"), ("artifacts", "Artifacts"),
        ("artifact/org%2Fwalked%3Alatest", "org/walked"),
        ("diff/org%2Fbase%3Alatest/org%2Ftuned%3Alatest", "org/base"), ("workers", "Workers"), ("tenants", "Tenants"),
    ]:
        open_view(page, view, heading)
        look(page, f"{how}: {view}")
    page.goto(f"{own}/docs")
    expect(page.get_by_role("heading", name="Operations")).to_be_visible()
    page.locator("summary").first.click()
    look(page, f"{how}: docs")


def with_a_token(page):
    page.goto(f"{guarded}/#/jobs")
    expect(page.get_by_role("heading", level=2, name="A token, please")).to_be_visible()
    look(page, "token")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", level=2, name="Jobs")).to_be_visible()
    # Who may not write the sample's name is told so, and gives another.
    page.goto(f"{guarded}/#/new")
    page.get_by_role("button", name="Try the sample model").click()
    expect(page.get_by_role("alert")).to_contain_text("may not write sample/austen-bnb_nf4")
    page.locator("[name=name]").fill("one/austen")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page).to_have_url(re.compile("#/job/[0-9a-f]{32}$"))
    expect(page.locator("dl strong")).to_have_text("queued")
    # What needs the token's header is fetched with it.
    page.goto(f"{guarded}/#/artifact/org%2Fbase%3Alatest")
    expect(page.locator("svg.lineage")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="config.json", exact=True).click()
    assert "vocab_size" in json.loads(Path(download.value.path()).read_text())


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
    errors = []

    def fresh(**options):
        page = browser.new_context(bypass_csp=False, **options).new_page()
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: (errors.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(f"{said.text} {said.location}") if said.type == "error" else None)
        return page

    page = fresh()
    walk(page)
    hostile(page)
    keyboard(page)
    every_view(fresh(color_scheme="dark"), "dark")
    every_view(fresh(viewport={"width": 360, "height": 640}), "narrow")
    with_a_token(fresh())
    browser.close()

# A request without a token is refused, and what is not there is not: the browser tells it.
errors = [error for error in errors if not re.search("401|403|404.*(artifacts/%3C|lineage|jobs/%3C|jobs/<)", error)]
for problem in failed + errors:
    print(problem, file=sys.stderr)
print(f"{len(seen)} views")
sys.exit(bool(failed or errors))
