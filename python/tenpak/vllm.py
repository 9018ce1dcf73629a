"""vLLM: `--load-format tenpak`.

    vllm serve MODEL --load-format tenpak --model-loader-extra-config '{"store": "https://...", "trust": "org.pub"}'

MODEL is the artifact's name where the Hub (or an edge, by HF_ENDPOINT) has its configuration and tokenizer; or a
folder made by `tenpak.snapshot_download(..., weights=False)`. vLLM calls `register` itself, in every process.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._artifact import Artifact

LORA_STORE = "TENPAK_LORA_STORE"
"""Where adapters are looked for that a request names."""
LORA_TRUST = "TENPAK_LORA_TRUST"
"""Whose signature they need: a public key or trust file, several with `:` between them. Without it the user's own count."""


def register() -> None:
    """Tells vLLM of the load format, and, where TENPAK_LORA_STORE names a store, of its adapters."""
    from ._vllm_loader import add

    add()
    if store := os.environ.get(LORA_STORE):
        from ._vllm_lora import add_resolver

        trust = os.environ.get(LORA_TRUST)
        add_resolver(store, trust.split(os.pathsep) if trust else None)


def checksums(artifact: Artifact) -> dict[str, str]:
    """The SHA-256 of every tensor by name: what vLLM's `compute_weight_checksums` says, after its rank and a colon, of a
    parameter that is a tensor of the model as it is stored. One that is fused, packed, or of one rank has another.

    Raises:
        DamagedError: a chunk is not what was signed
    """
    found = {}
    with artifact.stream(framework="np") as stream:
        while (one := stream.next_buffer()) is not None:
            name, _, buffer = one
            found[name] = hashlib.sha256(buffer).hexdigest()  # type: ignore[arg-type]
    return found
