"""Taking a state out of a framework's memory: how long training waits for it, and when it may go on.

Three modes, from the plainest to the one that costs least:

- ``blocking``: copy, then wait until the checkpoint is durable.
- ``copy``: copy into a warm buffer and go on; a thread writes it.
- ``overlap``: go on at once; a thread copies during the next forward and backward pass, which read the weights and do
  not change them (the idea of DataStates-LLM, HPDC'24), and training waits for it before the next update. What does
  change in between, BatchNorm's statistics, generators, positions, is copied at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.checkpoint.buffers import BufferPool, BufferSet
from holdfast.engine.checkpoint.errors import CheckpointError, TornState
from holdfast.engine.checkpoint.live import LiveAdapter, LiveState
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.checkpoint.writer import Capture


class SaveMode(StrEnum):
    BLOCKING = "blocking"
    COPY = "copy"
    OVERLAP = "overlap"


def save_mode(name: str) -> SaveMode:
    """The mode of a name. Raises CheckpointError: there is none."""
    try:
        return SaveMode(name)
    except ValueError:
        raise CheckpointError(
            "there is no such save mode", where="mode", expected=", ".join(SaveMode), found=repr(name)
        ) from None


@dataclass
class _Copying:
    """A copy under way: what becomes of it, and what it must have copied, by the copier's own digests."""

    future: Future[None]
    capture: Capture
    expected: dict[str, str]
    targets: dict[str, Any]
    digest: Callable[[Any], str]


class LiveCapturer:
    """Copies the states of live adapters into warm buffers.

    Args:
        submit: gets each finished capture.
        reclaim: gives up a finished capture that nobody has begun to write, if there is one.
        memory_bytes: bound of the buffers, twice the state; None: none.
        encoded: blobs are compressed: one of them beside the buffers counts as well.
        self_test: hash every tensor before and after its copy. Slow; for finding out whether a mode fits a loop.
    """

    def __init__(
        self,
        mode: SaveMode,
        *,
        submit: Callable[[Capture], None],
        reclaim: Callable[[], None],
        clock: Clock,
        memory_bytes: int | None = None,
        encoded: bool = False,
        self_test: bool = False,
    ) -> None:
        self._mode = mode
        self._submit = submit
        self._reclaim = reclaim
        self._clock = clock
        self._self_test = self_test
        self._pool = BufferPool(memory_bytes=memory_bytes, encoded=encoded)
        self._copying: _Copying | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._warming: Future[None] | None = None
        self._hooked: list[LiveAdapter] = []
        self._stall_seconds = 0.0
        #: How long training waited for the last finished capture, in seconds.
        self.stall_seconds: float | None = None

    def warm(self, adapter: LiveAdapter) -> None:
        """Have the buffers made while training goes on; the first save then finds them warm.

        Raises:
            StateTooLarge: two sets of this state are more than the memory allowed.
        """
        state = adapter.live()
        self._pool.refuse_too_large(state)
        self._warming = self._executor().submit(self._pool.warm, state, adapter.copier)

    def capture(self, step: int, adapter: LiveAdapter) -> None:
        """Take the state after ``step``; one that only waits to be written gives way to it.

        Raises:
            CheckpointError: overlap, and the adapter cannot tell when the weights are about to change.
            StateTooLarge, TornState: see there.
        """
        self.wait()
        began = self._clock.monotonic()
        if self._warming is not None:
            self._warming.result()
            self._warming = None
        self._hook(adapter)
        state = adapter.live()
        buffers = self._pool.take(state, adapter.copier)
        if buffers is None:
            # One is being written. The other waits to be, and gives way, or is free by now.
            self._reclaim()
            buffers = self._pool.take(state, adapter.copier)
        assert buffers is not None, "one save is in flight at most"
        try:
            self._begin(step, adapter, state, buffers)
        except BaseException:
            buffers.release()
            raise
        self._stall_seconds = self._clock.monotonic() - began
        if self._mode is not SaveMode.OVERLAP:
            self.wait()

    def wait(self) -> None:
        """Until the copy under way is complete; at once when there is none. Called before the weights change.

        Raises:
            TornState: the self-test found tensors that changed while they were copied; nothing of it is saved.
        """
        copying, self._copying = self._copying, None
        if copying is None:
            return
        began = self._clock.monotonic()
        try:
            copying.future.result()
            self._check(copying)
        except BaseException:
            copying.capture.release()
            raise
        self.stall_seconds = self._stall_seconds + self._clock.monotonic() - began
        self._submit(copying.capture)

    def close(self) -> None:
        """Give up what is being copied."""
        copying, self._copying = self._copying, None
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        if copying is not None:
            copying.capture.release()

    def _hook(self, adapter: LiveAdapter) -> None:
        if self._mode is not SaveMode.OVERLAP or any(known is adapter for known in self._hooked):
            return
        if not adapter.before_update(self.wait):
            raise CheckpointError(
                "this adapter cannot say when the weights are about to change",
                where="mode overlap",
                expected="an adapter with an optimizer hook",
                found=type(adapter).__name__,
                fix="Use mode `copy`",
            )
        self._hooked.append(adapter)

    def _begin(self, step: int, adapter: LiveAdapter, state: LiveState, buffers: BufferSet) -> None:
        copier, pairs = adapter.copier, buffers.pairs(state, volatile=False)
        expected: dict[str, str] = {}
        targets: dict[str, Any] = {}
        if self._self_test:
            tensors = [tensor for group in state.groups for tensor in group.tensors if not tensor.volatile]
            by_source = {id(source): target for target, source in pairs}
            targets = {tensor.spec.name: by_source[id(tensor.source)] for tensor in tensors}
            expected = {tensor.spec.name: copier.digest(tensor.source) for tensor in tensors}
        at_once = buffers.pairs(state, volatile=True)
        if at_once:
            copier.copy(at_once)
        capture = Capture(step, _state_of(state, buffers), self._clock.now(), buffers)
        future: Future[None]
        if self._mode is SaveMode.OVERLAP:
            future = self._executor().submit(copier.copy, pairs)
        else:
            copier.copy(pairs)
            future = Future()
            future.set_result(None)
        self._copying = _Copying(future, capture, expected, targets, copier.digest)

    def _executor(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-copier")
        return self._thread

    def _check(self, copying: _Copying) -> None:
        torn = [name for name, digest in copying.expected.items() if copying.digest(copying.targets[name]) != digest]
        if torn:
            raise TornState(
                "the state changed while it was copied; this checkpoint was not saved",
                where=f"step {copying.capture.step}, mode {self._mode}",
                expected="weights that change only in optimizer.step",
                found=f"{len(torn)} of {len(copying.expected)} tensors changed, the first is {torn[0]!r}",
                fix="Use mode `copy`, or have every change after the copy: call `before_update` before it",
            )


def _state_of(state: LiveState, buffers: BufferSet) -> TrainingState:
    """The blobs in the buffers and the rest, as one state; nothing is copied."""
    rest = state.rest.frozen()
    model = tuple(group.name for group in state.groups if group.model) + state.rest.model
    blobs: dict[str, Any] = {**buffers.views(), **rest.blobs}
    return TrainingState(blobs, rest.values, model, rest.fingerprint)
