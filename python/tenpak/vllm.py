"""vLLM: `--load-format tenpak`.

    vllm serve MODEL --load-format tenpak --model-loader-extra-config '{"store": "https://...", "trust": "org.pub"}'

MODEL is the artifact's name where the Hub (or an edge, by HF_ENDPOINT) has its configuration and tokenizer; or a
folder made by `tenpak.snapshot_download(..., weights=False)`. vLLM calls `register` itself, in every process.
"""

from __future__ import annotations

import os

LORA_STORE = "TENPAK_LORA_STORE"
"""Where adapters are looked for that a request names."""


def register() -> None:
    """Tells vLLM of the load format, and, where TENPAK_LORA_STORE names a store, of its adapters."""
    from ._vllm_loader import add

    add()
    if store := os.environ.get(LORA_STORE):
        from ._vllm_lora import add_resolver

        add_resolver(store)
