"""llama.cpp on a GGUF file: `llama_cpp_run.py FILE PROMPT TOKENS`: seconds until it is there, tokens/s of a prompt, then one at a time."""

import json
import os
import resource
import sys
import time

start = time.perf_counter()
import llama_cpp

file, prompt, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cores = os.cpu_count()
model = llama_cpp.Llama(
    file, n_ctx=prompt + tokens + 8, n_batch=prompt, n_ubatch=prompt, n_threads=cores, n_threads_batch=cores, verbose=False,
)
opened = time.perf_counter()
ids = [1 + at * 7 % 200 for at in range(prompt)]
model.eval(ids)
first = time.perf_counter()
model.reset()
again = time.perf_counter()
model.eval(ids)
read = time.perf_counter()
for at in range(tokens):
    model.eval([1 + at])
end = time.perf_counter()
print(json.dumps({
    "wall_s": end - start, "cpu_s": time.process_time(), "bytes": os.path.getsize(file),
    "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "first_token_s": first - start, "open_s": opened - start,
    "prompt_tokens_per_s": prompt / (read - again), "tokens_per_s": tokens / (end - read),
}))
