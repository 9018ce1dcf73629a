"""transformers on a folder, in bf16: `transformers_run.py FOLDER PROMPT TOKENS`: tokens/s of a prompt, then one at a time."""

import json
import os
import resource
import sys
import time

import torch
import transformers

folder, prompt, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
ids = torch.tensor([[1 + at * 7 % 200 for at in range(prompt)]])
start = time.perf_counter()
with torch.no_grad():
    past = model(ids).past_key_values
    read = time.perf_counter()
    for at in range(tokens):
        past = model(torch.tensor([[1 + at]]), past_key_values=past).past_key_values
end = time.perf_counter()
print(json.dumps({
    "wall_s": end - start, "cpu_s": time.process_time(), "bytes": os.path.getsize(f"{folder}/model.safetensors"),
    "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "prompt_tokens_per_s": prompt / (read - start), "tokens_per_s": tokens / (end - read),
}))
