"""`python -m tenpak`: the command, in the place of this process."""

from __future__ import annotations

import os
import sys

from ._command import find


def main() -> None:
    """Becomes the command."""
    path = find()
    os.execv(path, ["tenpak", *sys.argv[1:]])


if __name__ == "__main__":
    main()
