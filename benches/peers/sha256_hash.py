"""SHA-256 of a file by openssl."""

import os
import subprocess
import sys

from measured import measured

with measured() as result:
    subprocess.run(["openssl", "dgst", "-sha256", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
    result["bytes"] = os.path.getsize(sys.argv[1])
