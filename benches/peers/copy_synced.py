"""cp of a directory, then sync of the file system it went to."""

import os
import pathlib
import subprocess
import sys

from measured import measured

source, target = sys.argv[1:]
os.sync()
with measured() as result:
    subprocess.run(["cp", "-r", "--reflink=never", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    result["bytes"] = sum(p.stat().st_size for p in pathlib.Path(target).rglob("*") if p.is_file())
