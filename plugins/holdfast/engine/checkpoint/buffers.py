"""Warm buffers a state is copied into: at most two of its size, allocated once, used again for every save.

Cold memory costs a page fault per 4 KiB, more than the copy itself; a buffer that was written before does not. One
set is being written to the store while the next state is copied into the other. A set whose checkpoint is durable
stays readable for the replicas until it is needed: then they read from the store instead.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from holdfast.engine.checkpoint.errors import StateTooLarge
from holdfast.engine.checkpoint.live import Copier, LiveGroup, LiveState
from holdfast.engine.checkpoint.tensors import Layout, layout

SETS = 2
_SLICE_BYTES = 2 * 1024 * 1024


@dataclass
class _Blob:
    name: str
    memory: memoryview
    targets: tuple[Any, ...]
    order: tuple[int, ...]


class BufferSet:
    """The buffers of one state, laid out for one list of groups."""

    def __init__(self, groups: tuple[LiveGroup, ...], copier: Copier) -> None:
        self.shape = shape_of(groups)
        self.blobs = [_blob(group, copier) for group in groups]
        self.lock = Lock()
        self.busy = False
        #: Grows with every use, so that who was lent an earlier content does not read a later one.
        self.generation = 0

    def pairs(self, state: LiveState, *, volatile: bool) -> list[tuple[Any, Any]]:
        """``(target, source)`` of the tensors that are volatile, or of those that are not."""
        found = []
        for blob, group in zip(self.blobs, state.groups, strict=True):
            for target, position in zip(blob.targets, blob.order, strict=True):
                tensor = group.tensors[position]
                if tensor.volatile is volatile:
                    found.append((target, tensor.source))
        return found

    def views(self) -> dict[str, memoryview]:
        """The blobs by name; valid until the set is used again."""
        return {blob.name: blob.memory for blob in self.blobs}

    def release(self) -> None:
        """Whatever is in it is not needed any more, or only as long as nobody else needs the memory."""
        with self.lock:
            self.busy = False


class BufferPool:
    """Two sets at most. ``memory_bytes`` bounds both together, with ``encoded`` one encoded blob as well."""

    def __init__(self, *, memory_bytes: int | None = None, encoded: bool = False) -> None:
        self._memory_bytes = memory_bytes
        self._encoded = encoded
        self._sets: list[BufferSet] = []
        self._lock = Lock()

    def take(self, state: LiveState, copier: Copier) -> BufferSet | None:
        """A set for this state, or None while both hold a state that is not durable yet.

        Raises:
            StateTooLarge: two sets of this state, and what encoding takes, are more than the memory allowed.
        """
        shape = shape_of(state.groups)
        with self._lock:
            if any(known.shape != shape for known in self._sets):
                # Lay out anew: an optimizer has its moments only after its first step.
                self._sets = [known for known in self._sets if known.busy and known.shape == shape]
            for known in self._sets:
                with known.lock:
                    if not known.busy:
                        known.busy, known.generation = True, known.generation + 1
                        return known
            if len(self._sets) >= SETS:
                return None
            self.refuse_too_large(state)
            made = BufferSet(state.groups, copier)
            made.busy, made.generation = True, 1
            self._sets.append(made)
            return made

    def warm(self, state: LiveState, copier: Copier) -> None:
        """Make both sets now, so that no save waits for it; the interpreter's lock is free for most of it."""
        shape = shape_of(state.groups)
        while len(self._sets) < SETS:
            made = BufferSet(state.groups, copier)
            with self._lock:
                if len(self._sets) < SETS and all(known.shape == shape for known in self._sets):
                    self._sets.append(made)
                else:
                    return

    def refuse_too_large(self, state: LiveState) -> None:
        """Raises StateTooLarge: see `take`."""
        sizes = [sum(tensor.spec.size_bytes for tensor in group.tensors) for group in state.groups]
        require_memory(sizes, self._memory_bytes, encoded=self._encoded)


def require_memory(sizes: Sequence[int], memory_bytes: int | None, *, encoded: bool) -> None:
    """Raises StateTooLarge: two states with blobs of these sizes (one written, one waiting) are more than allowed.

    Args:
        memory_bytes: None: anything is allowed.
        encoded: blobs are compressed; one is then held encoded while it is written, never larger than the plain one.
    """
    needed = SETS * sum(sizes) + (max(sizes, default=0) if encoded else 0)
    if memory_bytes is not None and needed > memory_bytes:
        raise StateTooLarge(
            "the state is larger than the memory allowed for saving it",
            where="memory_bytes",
            expected=f"at most {memory_bytes} bytes",
            found=f"{needed} bytes, twice the state{' and its largest blob encoded' if encoded else ''}",
            fix="Allow more memory, shard the state over more ranks, or save fewer tensors",
        )


@dataclass(frozen=True)
class LentBlobs(Mapping[str, bytes]):
    """Blobs by digest that lie in a buffer set, each read as a copy; gone as soon as the set is used again."""

    lender: BufferSet
    generation: int
    names: Mapping[str, str]
    others: Mapping[str, bytes]

    def __getitem__(self, digest: str) -> bytes:
        if digest in self.others:
            return self.others[digest]
        lender = self.lender
        view = lender.views()[self.names[digest]]
        copy = bytearray()
        # In slices: the training thread must not wait for the interpreter while 64 MiB are copied.
        for begin in range(0, len(view), _SLICE_BYTES):
            with lender.lock:
                if lender.generation != self.generation:
                    raise KeyError(digest)
                copy += view[begin : begin + _SLICE_BYTES]
        return copy  # type: ignore[return-value]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.names, **self.others})

    def __len__(self) -> int:
        return len({**self.names, **self.others})


def shape_of(groups: tuple[LiveGroup, ...]) -> tuple[Any, ...]:
    """What decides a layout: names, types and shapes."""
    return tuple((group.name, tuple(tensor.spec for tensor in group.tensors)) for group in groups)


def _blob(group: LiveGroup, copier: Copier) -> _Blob:
    plan: Layout = layout([tensor.spec for tensor in group.tensors])
    memory = _warm_memory(plan.size_bytes)
    memory[: len(plan.header)] = plan.header
    where = {tensor.spec.name: position for position, tensor in enumerate(group.tensors)}
    targets = tuple(
        copier.target(spec, memory[at : at + spec.size_bytes])
        for spec, at in zip(plan.specs, plan.offsets, strict=True)
    )
    return _Blob(group.name, memory, targets, tuple(where[spec.name] for spec in plan.specs))


def _warm_memory(size_bytes: int) -> memoryview:
    """Memory that was written once. By the C library: training goes on meanwhile, a loop here would hold it up."""
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(pages)), 0, size_bytes)
    return memoryview(pages)
