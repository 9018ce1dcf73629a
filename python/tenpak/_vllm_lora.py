"""LoRA adapters of a store, for vLLM: a request that names one loads it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from ._artifact import Artifact
from ._errors import InvalidError, NotFoundError
from ._hub import snapshot_download

NAME = "tenpak"
CONFIG = "adapter_config.json"


class TenpakLoRAResolver(LoRAResolver):  # type: ignore[misc]
    """Finds adapters by their names in a store."""

    def __init__(self, store: str) -> None:
        self._store = store

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """The adapter of that name, in a local folder, every file verified; `None` if the store has none, or it is of
        another base model."""
        return await asyncio.get_running_loop().run_in_executor(None, self._resolve, base_model_name, lora_name)

    def _resolve(self, base_model_name: str, lora_name: str) -> Any:
        try:
            artifact = Artifact(lora_name, store=self._store)
            config = json.loads(artifact.read(CONFIG))
        except (NotFoundError, InvalidError):
            return None
        base = config.get("base_model_name_or_path")
        if config.get("peft_type") != "LORA" or base not in (None, "", base_model_name):
            return None
        # By its id: the name may move while it is fetched.
        folder = snapshot_download(
            f"@{artifact.id}", repo_id=lora_name.partition(":")[0], revision="main", store=self._store
        )
        number = int.from_bytes(hashlib.blake2b(artifact.id.encode(), digest_size=4).digest(), "little")
        return LoRARequest(lora_name=lora_name, lora_int_id=(number >> 1) or 1, lora_path=os.fspath(folder))


def add_resolver(store: str) -> None:
    """Registers the resolver, once in a process."""
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, TenpakLoRAResolver(store))
