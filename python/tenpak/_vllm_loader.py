"""vLLM's loader: weights from a store, verified, in bounded memory; each rank of a tensor-parallel group reads only
the chunks under its part."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

from vllm.logger import init_logger
from vllm.model_executor import model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from . import _engine, _vllm_refit
from ._errors import InvalidError

# vLLM shows what its own modules tell.
logger = init_logger("vllm.tenpak")

FORMAT = "tenpak"
KEYS = frozenset({"artifact", "lazy", *_engine.OPTIONS})


class TenpakModelLoader(DefaultModelLoader):  # type: ignore[misc]
    """Loads from an artifact.

    Of `--model-loader-extra-config`:
        artifact: its name, if the model is called otherwise
        store, trust, mirror, headers, ca: see `tenpak.Artifact`
        lazy: whether tensors are read as vLLM looks at parts of them; by default with tensor parallelism only
    """

    counter_before_loading_weights: float
    _first: str | None = None
    """The model that `artifact` is of; a reload names another."""
    _before: _vllm_refit.Held | None = None
    _now = _vllm_refit.Held(None, {})

    def __init__(self, load_config: Any) -> None:
        given = dict(load_config.model_loader_extra_config or {})
        self._given = {key: given.pop(key) for key in list(given) if key in KEYS}
        rest = copy.copy(load_config)
        # What is left is checked by vLLM's own loader.
        rest.model_loader_extra_config = given
        super().__init__(rest)
        self.load_config = rest

    def download_model(self, model_config: Any) -> None:
        """Nothing is downloaded: tensors stream."""

    def _artifact(self, source: Any) -> Any:
        cls = type(self)
        if cls._first is None:
            cls._first = source.model_or_path
        given = dict(self._given)
        if source.model_or_path != cls._first:
            given.pop("artifact", None)
        return _engine.find(source.model_or_path, source.revision, given)

    def load_model(self, *arguments: Any, **options: Any) -> Any:
        """A model with its weights."""
        model = super().load_model(*arguments, **options)
        _vllm_refit.remember(model)
        return model

    def get_all_weights(self, model_config: Any, model: Any) -> Any:
        """The weights by name; asked for when a model is loaded, and when a running one takes others.

        Raises:
            InvalidError: vLLM would not make of them what a fresh engine does
        """
        if not _vllm_refit.is_right(model):
            raise InvalidError(
                "on a processor vLLM's reload makes a mixture of experts wrong: start the engine anew with the other tag"
            )
        renew_tied(model)
        self._before = _vllm_refit.take(model)
        self._now = _vllm_refit.Held(None, {})
        return self._all_weights(model_config, model)

    def _all_weights(self, model_config: Any, model: Any) -> Generator[tuple[str, Any], None, None]:
        yield from super().get_all_weights(model_config, model)
        _vllm_refit.hold(model, self._now)

    def _held(self, artifact: Any, wanted: list[Any], prefix: str) -> frozenset[Any]:
        """Those that the model was made of already."""
        if self._now.artifact is None:
            self._now = self._now._replace(artifact=artifact.id)
            if self._before is not None and self._before.artifact == artifact.id:
                # Whoever loads the same again wants it restored.
                self._before = None
        meanings = {prefix + one.name: _vllm_refit.meaning(one) for one in wanted}
        self._now.tensors.update(meanings)
        before = self._before.tensors if self._before is not None else {}
        return frozenset(
            one for one in wanted if before.get(prefix + one.name) == meanings[prefix + one.name]
        )

    def _get_weights_iterator(self, source: Any) -> Generator[tuple[str, Any], None, None]:
        import time

        from vllm.distributed import get_tensor_model_parallel_world_size

        if self._encoder_only_lm_prefixes is not None:
            raise InvalidError("--load-format tenpak does not know --mm-encoder-only: leave one of them out")
        artifact = self._artifact(source)
        wanted = [
            one
            for one in _engine.counted(artifact, source.allow_patterns_overrides, source.subfolder)
            if not should_skip_weight(one.name, self.local_expert_ids)
            and not (source.is_unused_weight is not None and source.is_unused_weight(one.name))
        ]
        if not wanted:
            raise InvalidError(f"{artifact!r} has no weights that the model wants", artifact=artifact.id)
        if not self.counter_before_loading_weights:
            self.counter_before_loading_weights = time.perf_counter()
        is_lazy = self._given.get("lazy", get_tensor_model_parallel_world_size() > 1)
        progress = bool(self.load_config.use_tqdm_on_load) and not is_lazy
        told, held = _engine.Told(), self._held(artifact, wanted, source.prefix)
        for name, tensor in _engine.tensors(
            artifact, wanted, is_lazy=is_lazy, progress=progress, told=told, held=held
        ):
            yield source.prefix + name, tensor
        logger.info(
            "%s: %d tensors of %s, %d of them held, verified: %d bytes fetched in %d requests",
            artifact.name or artifact.id, len(wanted), artifact.store, len(held), told.fetched_bytes, told.requests,
        )  # fmt: skip


def renew_tied(model: Any) -> None:
    """On a processor vLLM multiplies by a packed copy of a layer's weights. A head that shares its weights with the
    embedding has no weights of its own, so that a reload leaves its copy as it was: such a copy is made anew when it is
    next used."""
    owners: dict[int, list[Any]] = {}
    for module in model.modules():
        if (weight := module._parameters.get("weight")) is not None:
            owners.setdefault(id(weight), []).append(module)
    for modules in owners.values():
        for module in modules if len(modules) > 1 else ():
            if hasattr(module, "cpu_linear"):
                _renew(module)


def _renew(module: Any) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    def first(*arguments: Any, **options: Any) -> Any:
        dispatch_cpu_unquantized_gemm(module, remove_weight=False)
        return module.cpu_linear(*arguments, **options)

    module.cpu_linear = first


def add() -> None:
    """Registers the load format, once in a process."""
    _vllm_refit.add()
    known = model_loader._LOAD_FORMAT_TO_MODEL_LOADER
    if known.get(FORMAT) is not TenpakModelLoader:
        model_loader.register_model_loader(FORMAT)(TenpakModelLoader)
