"""Puts the package where tests import it from, as a wheel would install it: its files, the extension that cargo built,
and the metadata with its entry points. `stage.py EXTENSION SITE`"""

import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def main(extension: str, site: str) -> None:
    root = Path(site)
    shutil.rmtree(root, ignore_errors=True)
    package = root / "tenpak"
    package.mkdir(parents=True)
    for file in (HERE / "tenpak").iterdir():
        if file.suffix in (".py", ".pyi", ".typed"):
            (package / file.name).symlink_to(file)
    (package / "_tenpak.abi3.so").symlink_to(Path(extension).resolve())
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    info = root / "tenpak-0.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tenpak\nVersion: 0.0.0\n")
    lines = []
    for group, names in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in names.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


main(*sys.argv[1:])
