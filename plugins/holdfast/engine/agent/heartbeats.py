"""Pushes a site's heartbeat into every bucket, each from a thread of its own: a dead peer delays nobody."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from holdfast.engine.health.heartbeat import Heartbeat, encode, key_of
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError


class _Pusher:
    """One bucket: always the newest beat, never a queue of old ones."""

    def __init__(self, bucket: str, store: ObjectStore) -> None:
        self.bucket = bucket
        self.trouble: str | None = None
        self._store = store
        self._changed = threading.Condition()
        self._next: Heartbeat | None = None
        self._closed = False
        threading.Thread(target=self._run, daemon=True, name=f"heartbeat-{bucket}").start()

    def offer(self, beat: Heartbeat) -> None:
        with self._changed:
            self._next = beat
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next is not None)
                if self._closed:
                    return
                beat, self._next = self._next, None
            assert beat is not None
            try:
                # Overwriting is right: nobody decides by what was there, and a reader passes over an older sequence.
                self._store.put(key_of(beat.site), encode(beat), content_type="application/json")
                self.trouble = None
            except HoldfastError as error:
                self.trouble = str(error)


class HeartbeatSender:
    """Offers each beat to every bucket. `send` never waits."""

    def __init__(self, stores: Mapping[str, ObjectStore]) -> None:
        self._pushers = [_Pusher(bucket, store) for bucket, store in stores.items()]

    def send(self, beat: Heartbeat) -> None:
        for pusher in self._pushers:
            pusher.offer(beat)

    @property
    def troubles(self) -> dict[str, str]:
        """Why a bucket's last push failed, for those where it did."""
        return {p.bucket: p.trouble for p in self._pushers if p.trouble is not None}

    def close(self) -> None:
        for pusher in self._pushers:
            pusher.close()
