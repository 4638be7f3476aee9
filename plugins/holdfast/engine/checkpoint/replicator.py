"""One background worker per standby site: every committed checkpoint goes there straight after its manifest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from threading import Condition, Thread

from holdfast.clock import Clock
from holdfast.engine.checkpoint.errors import Fenced
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key
from holdfast.engine.checkpoint.guard import WriteGuard
from holdfast.engine.checkpoint.replicate import ReadBlob, replicate_checkpoint
from holdfast.engine.objectstore.interface import ObjectStore


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How far a standby site is: the newest step there, what waits, what was left out, why it is behind."""

    site: str
    step: int | None
    at: datetime | None
    waiting: int
    skipped: int
    seconds: float | None
    error: str | None
    #: When the state of ``step`` was captured, by the writer's clock.
    saved_at: datetime | None = None


class Replicator:
    """Replicates to one site. When it falls behind the newest wins; every ``keep_every``-th is still brought over.

    A site that is down costs a retry every few seconds and bounded memory: the newest checkpoint's bytes, and the
    manifests of at most eight kept ones, whose blobs are read from the source when their turn comes.

    Every blob is read back once. Those of the newest checkpoint it brought there are not read again for the next one,
    until the site fails or `forget` is called.

    Args:
        arrived: called in this worker's thread with the seconds a checkpoint took, once it is at the site.
    """

    def __init__(
        self,
        source: ObjectStore,
        target: ObjectStore,
        site: str,
        run: str,
        *,
        guard: WriteGuard,
        clock: Clock,
        keep_every: int = 10,
        retry_seconds: float = 0.5,
        retry_seconds_max: float = 5.0,
        arrived: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._source = source
        self._target = target
        self._site = site
        self._run_name = run
        self._guard = guard
        self._clock = clock
        self._keep_every = keep_every
        self._retry_seconds = retry_seconds
        self._retry_seconds_max = retry_seconds_max
        self._arrived = arrived
        self._condition = Condition()
        self._newest: tuple[int, CheckpointManifest, Mapping[str, bytes]] | None = None
        self._kept: deque[CheckpointManifest] = deque(maxlen=8)
        self._busy = False
        self._offered = 0
        self._skipped = 0
        self._done: CheckpointManifest | None = None
        self._done_at: datetime | None = None
        self._seconds: float | None = None
        self._error: str | None = None
        self._known: frozenset[str] = frozenset()
        self._closing = False
        self._over = False
        self._thread = Thread(target=self._run, name=f"replicate-to-{site}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, manifest: CheckpointManifest, blobs: Mapping[str, bytes]) -> None:
        """A checkpoint was committed; returns at once."""
        with self._condition:
            self._shelve()
            self._offered += 1
            self._newest = self._offered, manifest, blobs
            self._condition.notify_all()

    def wait(self, step: int, seconds: float) -> bool:
        """Wait until a checkpoint of this step or a later one is at the site."""
        deadline = self._clock.monotonic() + seconds
        with self._condition:
            while not self._over and not self._has(step):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(min(left, 0.5))
            return self._has(step)

    def status(self) -> ReplicaStatus:
        with self._condition:
            waiting = len(self._kept) + (self._newest is not None) + self._busy
            return ReplicaStatus(
                self._site,
                self._done.step if self._done else None,
                self._done_at,
                waiting,
                self._skipped,
                self._seconds,
                self._error,
                self._done.saved_at if self._done else None,
            )

    def forget(self) -> None:
        """Believe nothing to be at the site that was read back there; called in this worker's own thread."""
        self._known = frozenset()

    def close(self, seconds: float = 5.0) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _has(self, step: int) -> bool:
        return self._done is not None and self._done.step >= step

    def _shelve(self) -> None:
        """The newest is about to be replaced: keep it when its turn is a k-th, else leave it out."""
        if self._newest is None:
            return
        ordinal, manifest, _ = self._newest
        if ordinal % self._keep_every == 0:
            self._kept.append(manifest)
        else:
            self._skipped += 1

    def _take(self) -> tuple[int | None, CheckpointManifest, Mapping[str, bytes]] | None:
        with self._condition:
            self._busy = False
            while self._newest is None and not self._kept and not self._closing:
                self._condition.wait()
            if self._closing:
                return None
            self._busy = True
            if self._newest is not None:
                taken, self._newest = self._newest, None
                return taken
            return None, self._kept.popleft(), {}

    def _run(self) -> None:
        pause_seconds = self._retry_seconds
        while (taken := self._take()) is not None:
            ordinal, manifest, blobs = taken
            began = self._clock.monotonic()
            try:
                replicate_checkpoint(
                    self._source,
                    self._target,
                    self._run_name,
                    manifest,
                    site=self._site,
                    clock=self._clock,
                    guard=self._guard,
                    read_blob=self._reader(blobs),
                    known=self._known,
                )
            except Exception as error:  # whatever is wrong with a standby, training goes on; the heartbeat tells
                self.forget()  # the store may have lost what it had
                over = isinstance(error, Fenced)
                self._failed(ordinal, manifest, blobs, error, over=over)
                if over or self._pause(pause_seconds):
                    return
                pause_seconds = min(pause_seconds * 2, self._retry_seconds_max)
                continue
            pause_seconds = self._retry_seconds
            seconds = self._clock.monotonic() - began
            with self._condition:
                if self._done is None or manifest.step > self._done.step:
                    self._done, self._done_at = manifest, self._clock.now()
                    # The newest is what no collection takes; later ones share blobs with it, if with any.
                    self._known = frozenset(reference.digest for reference in manifest.blobs.values())
                self._seconds, self._error = seconds, None
                self._condition.notify_all()
            try:
                self._arrived(seconds)
            except Exception as error:  # the checkpoint is there; what follows it must not end the replication
                with self._condition:
                    self._error = str(error) or type(error).__name__

    def _failed(
        self,
        ordinal: int | None,
        manifest: CheckpointManifest,
        blobs: Mapping[str, bytes],
        error: Exception,
        *,
        over: bool,
    ) -> None:
        with self._condition:
            self._error = str(error) or type(error).__name__
            self._over = over
            self._busy = False
            if ordinal is None:
                self._skipped += 1  # a kept one is a bonus; the newest is the duty
            elif self._newest is None:
                self._newest = ordinal, manifest, blobs
            elif ordinal % self._keep_every == 0:
                self._kept.append(manifest)
            else:
                self._skipped += 1
            self._condition.notify_all()

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; True when closing."""
        deadline = self._clock.monotonic() + seconds
        with self._condition:
            while not self._closing and (left := deadline - self._clock.monotonic()) > 0:
                self._condition.wait(left)
            return self._closing

    def _reader(self, blobs: Mapping[str, bytes]) -> ReadBlob:
        def read(digest: str) -> bytes:
            data = blobs.get(digest)
            return data if data is not None else self._source.get(blob_key(self._run_name, digest))

        return read
