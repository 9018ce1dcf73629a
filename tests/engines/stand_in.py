"""Stands in for an engine of others: notes how it was started, fetches the model as the engine does, says that it is
ready, and ends as it is told. It is no run of that engine.

STAND_IN is JSON: `record`, the file to note things in; `version`; `hub`, to fetch with the Hub's own client; `exit`, to
end with this status before it is ready; `silent`, never to be ready; `worker`, to start a process in a session of its
own; `stubborn`, to take no notice of SIGTERM; `status`, to end with after SIGTERM or SIGINT.
"""
import hashlib
import http.server
import json
import os
import pathlib
import signal
import sys
import urllib.request

VERSIONS = {
    "vllm": "0.32.0+cpu", "sglang": "sglang version: 0.5.23", "text-generation-launcher": "text-generation-launcher 3.3.7",
    "llama-server": "version: 6123 (abc)",
}
name = pathlib.Path(sys.argv[0]).name
arguments = sys.argv[1:]
told = json.loads(os.environ.get("STAND_IN", "{}"))
if arguments in (["--version"], ["version"]):
    print(told.get("version", VERSIONS[name]))
    sys.exit()


def option(*names):
    return next((arguments[arguments.index(own) + 1] for own in names if own in arguments), None)


def ask(path):
    headers = {"Authorization": f"Bearer {os.environ['HF_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + path, headers=headers)) as answer:
        return answer.read()


def fetch(repo, revision):
    if told.get("hub"):
        from huggingface_hub import snapshot_download

        folder = pathlib.Path(snapshot_download(repo, revision=revision))
        assert folder.is_relative_to(os.environ["HF_HOME"]), folder
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    about = json.loads(ask(f"/api/models/{repo}/revision/{revision}"))
    assert about["sha"] == revision, about
    names = [file["rfilename"] for file in about["siblings"]]
    return {name: ask(f"/{repo}/resolve/{revision}/{name}") for name in names}


note = {"arguments": arguments, "environment": dict(os.environ), "pid": os.getpid(), "worker": None, "signal": None}


def write():
    if "record" in told:
        path = pathlib.Path(told["record"])
        path.with_suffix(".new").write_text(json.dumps(note))
        path.with_suffix(".new").rename(path)


def stopped(number, _):
    note["signal"] = number
    write()
    print("stopping", flush=True)
    if not told.get("stubborn"):
        os._exit(told.get("status", 0))


signal.signal(signal.SIGTERM, stopped)
signal.signal(signal.SIGINT, stopped)
print("loading", flush=True)
print("no line's end " * 3000, end="", file=sys.stderr, flush=True)
print(file=sys.stderr, flush=True)
if told.get("worker"):
    worker = os.fork()
    if worker == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    note["worker"] = worker
file = option("--model") if name == "llama-server" else None
if file:
    files = {pathlib.Path(file).name: pathlib.Path(file).read_bytes()}
else:
    files = fetch(option("--model-path", "--model-id") or arguments[1], option("--revision"))
note["files"] = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
write()
if "exit" in told:
    print("giving up", flush=True)
    sys.exit(told["exit"])


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/die/"):
            os._exit(int(self.path.rsplit("/", 1)[1]))
        self.send_response(200 if self.path == "/health" and not told.get("silent") else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


host = option("--hostname", "--host")
http.server.ThreadingHTTPServer((host, int(option("--port"))), Server).serve_forever()
