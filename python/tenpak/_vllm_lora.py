"""LoRA adapters of a store, for vLLM: a request that names one loads it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from ._artifact import Artifact, Trust
from ._engine import MARKER
from ._errors import InvalidError, NotFoundError
from ._hub import snapshot_download

NAME = "tenpak"
CONFIG = "adapter_config.json"


class TenpakLoRAResolver(LoRAResolver):  # type: ignore[misc]
    """Finds adapters by their names in a store."""

    def __init__(self, store: str, trust: Trust = None) -> None:
        self._store = store
        self._trust = trust

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """The adapter of that name, in a local folder, every file verified; `None` if the store has none, or it is of
        another base model."""
        return await asyncio.get_running_loop().run_in_executor(None, self._resolve, base_model_name, lora_name)

    def _resolve(self, base_model_name: str, lora_name: str) -> Any:
        try:
            artifact = Artifact(lora_name, store=self._store, trust=self._trust)
            config = json.loads(artifact.read(CONFIG))
        except (NotFoundError, InvalidError):
            return None
        base = config.get("base_model_name_or_path")
        if config.get("peft_type") != "LORA" or base not in (None, "", *names_of(base_model_name)):
            return None
        # By its id: the name may move while it is fetched.
        folder = snapshot_download(
            f"@{artifact.id}",
            repo_id=lora_name.partition(":")[0],
            revision="main",
            store=self._store,
            trust=self._trust,
        )
        number = int.from_bytes(hashlib.blake2b(artifact.id.encode(), digest_size=4).digest(), "little")
        return LoRARequest(lora_name=lora_name, lora_int_id=(number >> 1) or 1, lora_path=os.fspath(folder))


def names_of(model: str) -> list[str]:
    """What adapters may call the model: as vLLM does, and, of a folder without weights, as its artifact is called."""
    try:
        with open(os.path.join(model, MARKER), encoding="utf-8") as file:
            artifact = json.load(file)["artifact"]
    except (FileNotFoundError, NotADirectoryError):
        return [model]
    return [model, artifact, artifact.partition(":")[0]]


def add_resolver(store: str, trust: Trust = None) -> None:
    """Registers the resolver, once in a process."""
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, TenpakLoRAResolver(store, trust))
