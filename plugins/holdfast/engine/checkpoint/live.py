"""The state of a run while it lies in the framework's own memory: what a save copies, and what it must copy at once.

An adapter that has ``live()`` is saved through warm buffers (see `buffers`): each group of tensors has a buffer that
is its blob, and saving is one copy of memory. Adapters without it hand over finished bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from holdfast.engine.checkpoint.state import Adapter, Fingerprinted, TrainingState
from holdfast.engine.checkpoint.tensors import TensorSpec

#: Blobs are as large as this at most, unless one tensor alone is larger: what deduplicates and what is read at once.
GROUP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """A tensor of the framework, and how it will be written.

    Args:
        source: the framework's own tensor.
        volatile: it may change before the next update of the weights (BatchNorm's statistics): copied at once in
            every mode.
    """

    spec: TensorSpec
    source: Any
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class LiveGroup:
    """The tensors of one blob. ``model``: they count for the model's digest."""

    name: str
    tensors: tuple[LiveTensor, ...]
    model: bool


@dataclass(frozen=True, slots=True)
class LiveState:
    """Everything to save: the tensors where they are, and ``rest``, already copied (generators, positions, JSON)."""

    groups: tuple[LiveGroup, ...]
    rest: TrainingState


class Copier(Protocol):
    """How a framework copies its tensors into memory of ours."""

    def target(self, spec: TensorSpec, slot: memoryview) -> Any:
        """A tensor of this type and shape over these bytes."""

    def copy(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Copy each source of ``(target, source)`` into its target, without the interpreter's lock."""

    def digest(self, tensor: Any) -> str:
        """Of the tensor's bytes; for the torn-state self-test."""


@runtime_checkable
class LiveAdapter(Protocol):
    """An adapter whose tensors are copied where they are."""

    copier: Copier

    def live(self) -> LiveState:
        """The tensors to copy, and the rest copied."""

    def before_update(self, hook: Callable[[], None]) -> bool:
        """Have ``hook`` called before the weights change next; False when this adapter cannot tell."""

    def load_state(self, state: TrainingState) -> None:
        """Continue from this state, exactly."""


def grouped(
    prefix: str, tensors: Sequence[LiveTensor], *, model: bool, group_bytes: int = GROUP_BYTES
) -> list[LiveGroup]:
    """Cut tensors, in their order, into groups of at most ``group_bytes``: ``<prefix>-000.safetensors`` and so on."""
    cut: list[list[LiveTensor]] = []
    size_bytes = 0
    for tensor in tensors:
        if not cut or size_bytes + tensor.spec.size_bytes > group_bytes:
            cut.append([])
            size_bytes = 0
        cut[-1].append(tensor)
        size_bytes += tensor.spec.size_bytes
    return [LiveGroup(f"{prefix}-{number:03d}.safetensors", tuple(group), model) for number, group in enumerate(cut)]


def fingerprint_of(adapter: Adapter | LiveAdapter | None) -> Mapping[str, str]:
    """What an adapter adds to the environment's fingerprint; a live one is not copied for it."""
    if adapter is None:
        return {}
    if isinstance(adapter, Fingerprinted):
        return adapter.fingerprint()
    return adapter.live().rest.fingerprint if isinstance(adapter, LiveAdapter) else adapter.state().fingerprint
