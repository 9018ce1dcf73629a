"""What the stubs say is what there is."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(*command):
    own = {**os.environ, "MYPY_CACHE_DIR": os.devnull}
    done = subprocess.run([sys.executable, "-m", *command], cwd=HERE.parent, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_typed():
    run("mypy")


def test_the_stubs_are_what_is_there():
    allow = ("--allowlist", str(HERE / "stubtest_allowlist.txt"), "--ignore-unused-allowlist")
    run("mypy.stubtest", "tenpak", "--mypy-config-file", "pyproject.toml", *allow)
