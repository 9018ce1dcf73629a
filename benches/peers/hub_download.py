"""One file through the client of the Hugging Face Hub, into an empty folder.

usage: hub_download.py ENDPOINT REPO FILE FOLDER
"""

import os
import sys

endpoint, repo, name, folder = sys.argv[1:]
os.environ |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": folder + "/home"}
from huggingface_hub import hf_hub_download  # reads the environment

from measured import measured

with measured() as result:
    path = hf_hub_download(repo, name, local_dir=folder)
    result["bytes"] = os.path.getsize(path)
