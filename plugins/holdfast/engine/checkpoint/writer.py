"""The background writer: at most one save in flight, at most one waiting, and training never waits for either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Condition, Thread
from typing import Self

from pydantic import JsonValue

from holdfast.clock import Clock
from holdfast.engine.checkpoint.buffers import BufferSet, LentBlobs
from holdfast.engine.checkpoint.commit import WritesHeld, commit_manifest
from holdfast.engine.checkpoint.compression import BlobEncoder, Compression
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointFailed, Fenced, StepTaken
from holdfast.engine.checkpoint.format import (
    ANCESTORS_NAMED,
    BlobRef,
    CheckpointManifest,
    format_of,
    model_digest,
)
from holdfast.engine.checkpoint.guard import WriteGuard
from holdfast.engine.checkpoint.state import METRICS, TrainingState
from holdfast.engine.checkpoint.storing import StoredForms, Storing
from holdfast.engine.objectstore.errors import BucketNotFound, NotSupported, PermissionRefused
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError

#: What waiting does not cure.
_PERMANENT = (PermissionRefused, BucketNotFound, NotSupported)


@dataclass(frozen=True, slots=True)
class Origin:
    """What every manifest of this process says the same."""

    run: str
    epoch: int
    site: str
    dataset_snapshot: str | None
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Capture:
    """A state taken at a step, waiting to become durable."""

    step: int
    state: TrainingState
    captured_at: datetime
    buffers: BufferSet | None = None

    def with_metrics(self, metrics: Mapping[str, float]) -> Self:
        """The same, with figures of its step in its values."""
        if not metrics:
            return self
        state = self.state
        values: dict[str, JsonValue] = {**state.values, METRICS: dict(metrics)}
        return replace(self, state=TrainingState(state.blobs, values, state.model, state.fingerprint))

    def release(self) -> None:
        """Nobody writes it any more."""
        if self.buffers is not None:
            self.buffers.release()

    def by_digest(self, manifest: CheckpointManifest, encoder: BlobEncoder) -> Mapping[str, bytes]:
        """Its blobs as they are stored, for the replicas; those in buffers only until the buffers are needed again."""
        own = {name: data for name, data in self.state.blobs.items() if isinstance(data, bytes)}
        others = {manifest.blobs[name].content: data for name, data in own.items()}
        if self.buffers is None:
            return StoredForms(manifest, others, encoder)
        lent = {manifest.blobs[name].content: name for name in self.buffers.views()}
        return StoredForms(manifest, LentBlobs(self.buffers, self.buffers.generation, lent, others), encoder)


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """Back-pressure, for people: what is being written, what waits, and what a newer state replaced."""

    in_flight_step: int | None
    pending_step: int | None
    superseded: int
    committed: int
    save_seconds: float | None
    error: str | None
    #: Of the last checkpoint, the bytes of blobs that the one before it did not name.
    changed_bytes: int = 0


class CheckpointWriter:
    """Commits captures one after the other, newest first; holds at most two states in memory.

    While the store does not answer it tries again, and a newer capture replaces the one that could not be written.

    Args:
        committed: called in the writer's thread after each commit, with the manifest and the blobs by digest.
        rested: called there when a save is over, whatever became of it, and its buffers are free.
        encoder: gives blobs the form they are stored in, in this thread; by default as they are.
    """

    def __init__(
        self,
        store: ObjectStore,
        origin: Origin,
        *,
        guard: WriteGuard,
        clock: Clock,
        parent: CheckpointManifest | None,
        committed: Callable[[CheckpointManifest, Mapping[str, bytes]], None],
        rested: Callable[[], None] = lambda: None,
        retry_seconds: float = 0.5,
        encoder: BlobEncoder | None = None,
    ) -> None:
        self._store = store
        self._origin = origin
        self._encoder = encoder or BlobEncoder(Compression())
        self._guard = guard
        self._clock = clock
        self._committed = committed
        self._rested = rested
        self._retry_seconds = retry_seconds
        self._condition = Condition()
        self._pending: Capture | None = None
        self._in_flight: Capture | None = None
        self._closing = False
        self._intact: set[str] = set()
        self._superseded = 0
        self._count = 0
        self._save_seconds: float | None = None
        self._changed_bytes = 0
        self._error: str | None = None
        self.failure: HoldfastError | None = None
        #: A step's key was taken; the next step should be saved instead.
        self.wants_another = False
        self.last: CheckpointManifest | None = parent
        self._thread = Thread(target=self._run, name="checkpoint-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, capture: Capture) -> None:
        """Have this state written; returns at once."""
        with self._condition:
            if self._pending is not None:
                self._superseded += 1
                self._pending.release()
            self._pending = capture
            self._condition.notify_all()

    def reclaim(self) -> None:
        """Give up what only waits, for a newer state."""
        with self._condition:
            if self._pending is not None:
                self._superseded += 1
                self._pending.release()
                self._pending = None

    def wait(self, step: int, seconds: float) -> bool:
        """Wait until a checkpoint of this step or a later one is committed. False: not in time, or never."""
        deadline = self._clock.monotonic() + seconds
        with self._condition:
            while self.failure is None and not self._has(step):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(min(left, 0.5))
            return self._has(step)

    def status(self) -> WriterStatus:
        with self._condition:
            return WriterStatus(
                self._in_flight.step if self._in_flight else None,
                self._pending.step if self._pending else None,
                self._superseded,
                self._count,
                self._save_seconds,
                self._error,
                self._changed_bytes,
            )

    def forget(self) -> None:
        """Believe nothing to be in the store that this process put there; called in the writer's own thread."""
        self._intact.clear()

    def close(self, seconds: float = 5.0) -> None:
        """Stop after the save in flight; what only waits is given up."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _has(self, step: int) -> bool:
        return self.last is not None and self.last.step >= step

    def _run(self) -> None:
        while (capture := self._take()) is not None:
            try:
                self._save(capture)
            except HoldfastError as error:
                self._fail(error)
            except Exception as error:
                self._fail(
                    CheckpointFailed(
                        "a checkpoint could not be written",
                        where=self._origin.run,
                        found=f"{type(error).__name__}: {error}",
                    )
                )
            finally:
                capture.release()
                with self._condition:
                    self._in_flight = None
                    self._condition.notify_all()
            if self.failure is not None:
                return
            self._rested()

    def _take(self) -> Capture | None:
        with self._condition:
            self._in_flight = None
            self._condition.notify_all()
            while self._pending is None and not self._closing:
                self._condition.wait()
            if self._closing and self._pending is None:
                return None
            self._in_flight, self._pending = self._pending, None
            return self._in_flight

    def _save(self, capture: Capture) -> None:
        storing = Storing(
            self._store,
            self._origin.run,
            capture.state.blobs,
            parent=self.last,
            encoder=self._encoder,
            intact=self._intact,
        )
        manifest: CheckpointManifest | None = None
        while True:
            began = self._clock.monotonic()
            try:
                blobs = storing.ensure()
                if manifest is None or manifest.blobs != blobs:
                    manifest = self._manifest(capture, blobs)
                done = commit_manifest(self._store, manifest, guard=self._guard)
            except (Fenced, *_PERMANENT):
                raise
            except StepTaken as error:
                with self._condition:
                    self.wants_another, self._error = True, str(error)
                return
            except HoldfastError as error:
                if not isinstance(error, WritesHeld):
                    self._intact.clear()  # the store may have lost what it had
                if not self._wait_to_retry(str(error)):
                    return
            else:
                self._done(done, capture, self._clock.monotonic() - began)
                return

    def _wait_to_retry(self, error: str) -> bool:
        """False: give this capture up, a newer one waits or the writer ends."""
        with self._condition:
            self._error = error
            if self._pending is None and not self._closing:
                self._condition.wait(self._retry_seconds)
            if self._pending is not None:
                self._superseded += 1
                return False
            return not self._closing

    def _done(self, manifest: CheckpointManifest, capture: Capture, seconds: float) -> None:
        before = set() if self.last is None else {blob.digest for blob in self.last.blobs.values()}
        new = {blob.digest: blob.size_bytes for blob in manifest.blobs.values() if blob.digest not in before}
        with self._condition:
            self.last = manifest
            self._changed_bytes = sum(new.values())
            # Later checkpoints share blobs with this one, if with any.
            self._intact = {reference.digest for reference in manifest.blobs.values()}
            self._count += 1
            self._save_seconds, self._error = seconds, None
            self._condition.notify_all()
        self._committed(manifest, capture.by_digest(manifest, self._encoder))

    def _fail(self, error: HoldfastError) -> None:
        if not isinstance(error, CheckpointError):
            error = CheckpointFailed(
                "the site's store refuses checkpoints",
                where=self._store.name,
                found=str(error),
                fix="Check the bucket and the connection of this site; training stopped here",
            )
        with self._condition:
            self.failure, self._error = error, str(error)
            self._condition.notify_all()

    def _manifest(self, capture: Capture, blobs: dict[str, BlobRef]) -> CheckpointManifest:
        return self._manifest_of(capture, capture.state, blobs)

    def _manifest_of(self, capture: Capture, state: TrainingState, blobs: dict[str, BlobRef]) -> CheckpointManifest:
        origin, parent = self._origin, self.last
        model = model_digest(blobs, state.model)
        warnings: tuple[str, ...] = ()
        if parent is not None and parent.model_digest == model and capture.step > parent.step:
            # Seen in the wild: saves that wrote step 10's weights for a hundred steps, each looking fine.
            warnings = (f"the model is identical to step {parent.step}'s, {capture.step - parent.step} steps ago",)
        ancestors = (parent.digest, *parent.ancestors)[:ANCESTORS_NAMED] if parent is not None else ()
        return CheckpointManifest(
            format=format_of(blobs),
            run=origin.run,
            step=capture.step,
            epoch=origin.epoch,
            site=origin.site,
            ancestors=ancestors,
            parent=parent.digest if parent else None,
            model_digest=model,
            model=state.model,
            blobs=blobs,
            state=dict(state.values),
            dataset_snapshot=origin.dataset_snapshot,
            fingerprint={**origin.fingerprint, **state.fingerprint},
            saved_at=capture.captured_at,
            write_id="",
            warnings=warnings,
        ).sealed()
