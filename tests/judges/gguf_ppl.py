"""Perplexity of GGUF files in llama.cpp itself, as `tenpak eval ppl` counts it: windows that do not overlap, every token
but the first of a window.

    .venv-tools/llama.cpp/bin/python tests/judges/gguf_ppl.py TEXT CONTEXT FILE...

Prints a line for each file: its perplexity and the number of tokens, which llama.cpp cuts by the file's own metadata.
"""

import pathlib
import sys

import llama_cpp
import numpy as np


def main() -> int:
    text, context, *files = sys.argv[1:]
    words, context = pathlib.Path(text).read_bytes(), int(context)
    for file in files:
        model = llama_cpp.Llama(file, n_ctx=context, n_batch=context, logits_all=True, verbose=False)
        tokens = model.tokenize(words, add_bos=False, special=False)
        total, counted = 0.0, 0
        for at in range(0, len(tokens), context):
            window = tokens[at : at + context]
            if len(window) < 2:
                continue
            model.reset()
            model.eval(window)
            logits = np.array(model.scores[: len(window) - 1], dtype=np.float64)
            logits -= logits.max(-1, keepdims=True)
            losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(window) - 1), window[1:]]
            total, counted = total + losses.sum(), counted + len(losses)
        print(f"{file}\t{np.exp(total / counted):.5f}\t{counted}", flush=True)
        del model
    return 0


if __name__ == "__main__":
    sys.exit(main())
