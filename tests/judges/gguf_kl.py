"""What GGUF files lose, by llama.cpp's own logits, counted as its `perplexity --kl-divergence` counts: perplexity ratio with
its error, mean, median and 99th percentile of the KL divergence from the base's distribution, share of tokens with the same
first choice. Windows and tokens are those of `tenpak optimize`: all of them, every token but the first of a window.

    .venv-judges/bin/python tests/judges/gguf_kl.py base MODEL_FOLDER LIKE.gguf BASE.gguf
    .venv-judges/bin/python tests/judges/gguf_kl.py flat FILE.gguf FLAT.gguf
    .venv-tools/llama.cpp/bin/python tests/judges/gguf_kl.py compare TEXT CONTEXT BASE.gguf FILE.gguf [TENPAK.json METHOD]...

`base` writes the unquantized model in 32 bits, with all that LIKE.gguf says beside its weights; `flat` writes the weights
that a file's blocks stand for: llama.cpp rounds what it multiplies with blocks to 8 bits on a processor, which adds to
the divergence, and does not with these. `compare` prints a line for each file; where the JSON of `tenpak optimize` and a
method of it follow the file, it fails unless perplexity ratio, mean KL divergence and same-choice rate are within 1% of
each other. Errors are told and not compared: llama.cpp counts tokens as independent, `optimize` windows.
"""

import json
import math
import pathlib
import statistics
import sys


def written(like: str, out: str, tensors: dict) -> int:
    """A file of 32-bit tensors, with all that another says beside its weights."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(like)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        more = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], more)
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 0


def flat(file: str, out: str) -> int:
    import gguf

    tensors = gguf.GGUFReader(file).tensors
    return written(file, out, {own.name: gguf.dequantize(own.data, own.tensor_type) for own in tensors})


def base(folder: str, like: str, out: str) -> int:
    import torch
    from safetensors.torch import load_file

    config = json.loads(pathlib.Path(folder, "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    found = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem in whole:
            told, kind = whole[stem], None
        else:
            _, _, block, rest = stem.split(".", 3)
            kind = names[rest]
            told = f"blk.{block}.{kind}"
        values = tensor.to(torch.float32).numpy()
        if kind in heads:
            # llama.cpp's order of the rows that rotary embeddings turn.
            count, rows = heads[kind], values.shape[0]
            values = values.reshape(count, 2, rows // count // 2, -1).swapaxes(1, 2).reshape(values.shape)
        found[f"{told}.weight"] = values
    return written(like, out, found)


def log_probabilities(file: str, words: bytes, context: int):
    """Of each window: its tokens, and the logarithms of all probabilities of each token after the first."""
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(file, n_ctx=context, n_batch=context, logits_all=True, verbose=False)
    tokens = model.tokenize(words, add_bos=False, special=False)
    for at in range(0, len(tokens), context):
        window = tokens[at : at + context]
        if len(window) < 2:
            continue
        model.reset()
        model.eval(window)
        logits = np.array(model.scores[: len(window) - 1], dtype=np.float64)
        logits -= logits.max(-1, keepdims=True)
        yield window, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def mean(values) -> tuple[float, float]:
    """The mean of tokens, and its error, as llama.cpp has it."""
    count = len(values)
    own = math.fsum(values) / count
    return own, math.sqrt(max(math.fsum(v * v for v in values) / count - own * own, 0.0) / (count - 1))


def compare(text: str, context: str, against: str, *files: str) -> int:
    import numpy as np

    words, size, failed = pathlib.Path(text).read_bytes(), int(context), 0
    files = list(files)
    while files:
        file = files.pop(0)
        ratios, divergences, same = [], [], 0
        pairs = zip(log_probabilities(against, words, size), log_probabilities(file, words, size), strict=True)
        for (window, p), (other, q) in pairs:
            assert window == other, "both cut the text into the same tokens"
            at = np.arange(len(window) - 1), window[1:]
            ratios += list(p[at] - q[at])
            divergences += list((np.exp(p) * (p - q)).sum(-1))
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
        (ratio, ratio_error), (kl, kl_error) = mean(ratios), mean(divergences)
        tail = sorted(divergences)[math.ceil(0.99 * len(divergences)) - 1]
        print(
            f"{file}\tln ratio {ratio:.6f} +- {ratio_error:.6f}\tKL {kl:.6f} +- {kl_error:.6f}\tmedian "
            f"{statistics.median(divergences):.6f}\t99% {tail:.6f}\tsame {same / len(ratios):.5f}\t{len(ratios)} tokens",
            flush=True,
        )
        if files and files[0].endswith(".json"):
            said, method = json.loads(pathlib.Path(files.pop(0)).read_text()), files.pop(0)
            own = next(row for row in said["candidates"] if row["method"] == method)["quality"]
            assert own["tokens"] == len(ratios), (own["tokens"], len(ratios))
            found = own["perplexity"] / own["base_perplexity"]
            for what, ours, theirs in (
                ("perplexity ratio", found, math.exp(ratio)), ("KL", own["kl"]["value"], kl),
                ("same first choice", own["same_top"], same / len(ratios)),
            ):
                off = abs(ours / theirs - 1)
                print(f"{method}: {what} {ours:.6f} for {theirs:.6f}, {100 * off:.3f}% off", flush=True)
                failed += off > 0.01
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit({"base": base, "flat": flat, "compare": compare}[sys.argv[1]](*sys.argv[2:]))
