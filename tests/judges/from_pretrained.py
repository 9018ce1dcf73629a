"""transformers.from_pretrained against HF_ENDPOINT: the weights are those of the folder, and the
tokenizer works.

usage: from_pretrained.py REPO FOLDER CACHE
"""

import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

repo, folder, cache = sys.argv[1:]
theirs = AutoModelForCausalLM.from_pretrained(repo, cache_dir=cache, dtype=torch.bfloat16)
ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
right = ours.state_dict()
got = theirs.state_dict()
assert set(got) == set(right)
for name, tensor in right.items():
    assert torch.equal(tensor.view(torch.uint8), got[name].view(torch.uint8)), name
tokenizer = AutoTokenizer.from_pretrained(repo, cache_dir=cache)
text = "the weights, chunk by chunk"
ids = tokenizer(text, return_tensors="pt").input_ids
assert tokenizer.decode(ids[0]) == text
with torch.no_grad():
    assert torch.equal(theirs(ids).logits, ours(ids).logits)
print(f"transformers {transformers.__version__}: {len(right)} tensors")
