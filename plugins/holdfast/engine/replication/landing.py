"""Put one object that is in memory at one target: created at its own key where that is free, else under ``.versions/``.

Nothing that is there is ever overwritten but bytes this very call put there and found bent, and bytes that are not
those their key under ``.versions/`` is named for: no snapshot is right about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal

from holdfast.clock import Clock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.ahead import AheadStore, Pending, ahead_store
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, IfMatch, ObjectStore, ObjectVersion
from holdfast.engine.replication.errors import ReplicaDamaged
from holdfast.engine.replication.verification import Proof, Verifier
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.placement import replica_metadata

#: How often the write of one object is begun again after a broken or wrong transfer.
ATTEMPTS = 3
BACKOFF_SECONDS = 0.2
UNKNOWN = ObjectVersion(None)


class Own(IntEnum):
    """What is known of an object's own key at a target."""

    FREE = 0
    #: By other bytes.
    TAKEN = 1
    #: By bytes of the same size.
    MAYBE = 2


@dataclass(frozen=True, slots=True)
class Landed:
    """Where an object lies at a target, in which version, what it took, and how it is known to be right."""

    key: str
    version: ObjectVersion
    how: Literal["carried", "found", "copied"]
    proof: Proof


@dataclass(frozen=True, slots=True)
class Need:
    """That a target lacks an object, and what is known of it there."""

    target: int
    own: Own = Own.FREE
    #: Where the newest snapshot there has the path's bytes, and which.
    base_key: str | None = None
    base_digest: str | None = None


@dataclass(frozen=True, slots=True)
class PendingLanding:
    """Bytes on their way."""

    pending: Pending[ObjectVersion]
    key: str
    #: Whether that is the object's own key.
    own: bool
    path: str
    need: Need
    data: bytes
    digest: str
    found: Attributes
    source_e_tag: str | None


class Landing:
    """Lands objects at one target. Safe to use from many threads.

    Args:
        folder: of the dataset under ``data/``.
        run_id: names the sync in the metadata of what it writes.
        translate: the source's attributes in this target's words, and what is lost.
        spares: size of what lies under ``.versions/``, by key, as far as it was listed.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        folder: str,
        policy: Sync,
        run_id: str,
        clock: Clock,
        translate: Callable[[Attributes], Attributes],
        spares: Mapping[str, int],
    ) -> None:
        self._store, self._folder, self.run_id, self._clock = store, folder, run_id, clock
        self._translate, self._spares = translate, dict(spares)
        #: Paths whose own key turned out to hold other bytes.
        self.taken_paths: set[str] = set()
        self._taken_spares: set[str] = set()
        can = store.capabilities()
        self._swaps = can.compare_and_swap is True
        self._keeps_metadata = can.metadata is True
        self.verifier = Verifier(store, policy)
        #: Whether a plain write is answered with the MD5 of what the store has.
        self.names_by_md5 = can.backend == "s3"
        #: Whether objects may lie at their own keys: a store without metadata cannot mark them as replicas.
        self.direct = policy.layout == "direct" and self._keeps_metadata

    def spare_bytes(self, key: str) -> int | None:
        """The size of what was listed at a key under ``.versions/``; ``None``: nothing."""
        return self._spares.get(key)

    def forget_spare(self, key: str) -> None:
        """What was listed there is not there any more."""
        self._spares.pop(key, None)

    def spare_taken(self, key: str) -> None:
        """Other bytes lie at this key under ``.versions/``, which is not named for their digest."""
        self._taken_spares.add(key)

    def is_spare_taken(self, key: str) -> bool:
        """Whether that was found."""
        return key in self._taken_spares

    def taken(self, path: str) -> None:
        """Other bytes lie at this object's own key."""
        self.taken_paths.add(path)

    def metadata(self, path: str) -> dict[str, str]:
        """What an object at its own key carries, so that it is not taken for new data."""
        return replica_metadata(self.run_id, path)

    def attributes(self, found: Attributes) -> Attributes | None:
        """What the object keeps of the source's attributes."""
        if not self._keeps_metadata:
            return None
        mapped = self._translate(found)
        return None if mapped is NO_ATTRIBUTES else mapped

    def land(
        self, path: str, need: Need, data: bytes, digest: str, found: Attributes, source_e_tag: str | None
    ) -> Landed:
        """Have the bytes at the target, verified.

        Raises:
            ReplicaDamaged: they keep coming out wrong.
            StoreUnavailable: the target did not answer.
        """
        if need.base_key is not None and need.base_digest == digest:
            return Landed(need.base_key, UNKNOWN, "carried", "read-back")
        attributes = self.attributes(found)
        attempt = 0
        while True:
            try:
                return self._land(path, need, data, digest, attributes, source_e_tag)
            except (StoreUnavailable, ReplicaDamaged):
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
            self._clock.sleep(BACKOFF_SECONDS * 2**attempt)

    @cached_property
    def _ahead(self) -> AheadStore | None:
        return ahead_store(self._store)

    def takes_ahead(self) -> bool:
        """Whether `begin` is worth a try: the store takes requests ahead, and nothing is to be found there first."""
        return self._ahead is not None and not self._spares

    def begin(
        self, path: str, need: Need, data: bytes, digest: str, found: Attributes, source_e_tag: str | None
    ) -> PendingLanding | None:
        """Send the bytes where `land` would put them first, without waiting; ``None``: it would look there before.

        Args: as `land`.
        """
        if self._ahead is None or self._spares or need.base_key is not None or need.own is Own.MAYBE:
            return None
        own = self.direct and need.own is Own.FREE
        key = keys.object_key(self._folder, path) if own else keys.version_key(self._folder, path, digest)
        metadata, attributes = self.metadata(path) if own else None, self.attributes(found)
        pending = self._ahead.begin_put(key, data, mode=CREATE, metadata=metadata, attributes=attributes)
        if pending is None:
            return None
        return PendingLanding(pending, key, own, path, need, data, digest, found, source_e_tag)

    def told(self, sent: PendingLanding, version: ObjectVersion) -> Landed | None:
        """Where the bytes lie, if the answer to the write tells that they are right; ``None``: `end` finds out."""
        proof = self.verifier.told(version, sent.digest, sent.source_e_tag)
        return None if proof is None else Landed(sent.key, version, "copied", proof)

    def end(self, sent: PendingLanding, version: ObjectVersion | None) -> Landed:
        """What became of bytes that were sent ahead.

        Args:
            version: what the store answered; ``None``: nothing that tells. They may lie there all the same: then they
                are found.

        Raises: as `land`.
        """
        landed = None
        if version is not None and sent.own:
            attributes = self.attributes(sent.found)
            landed = self._created(sent.key, version, sent.path, sent.data, sent.digest, attributes, sent.source_e_tag)
        elif version is not None:
            landed = self._verified(sent.key, version, sent.data, sent.digest, sent.source_e_tag)
        if landed is not None:
            return landed
        return self.land(sent.path, sent.need, sent.data, sent.digest, sent.found, sent.source_e_tag)

    def find(self, path: str, need: Need, digest: str, size_bytes: int) -> Landed | None:
        """The object where it lies at the target already; read back before it is believed."""
        maybe = self.direct and need.own is Own.MAYBE
        if not maybe and not self._spares:
            return None
        own, spare = keys.object_key(self._folder, path), keys.version_key(self._folder, path, digest)
        candidates = [own] if maybe else []
        if self._spares.get(spare) == size_bytes:
            candidates.append(spare)
        for key in candidates:
            if (version := self.verifier.is_there(key, digest)) is not None:
                return Landed(key, version, "found", "read-back")
        return None

    def _land(
        self,
        path: str,
        need: Need,
        data: bytes,
        digest: str,
        attributes: Attributes | None,
        source_e_tag: str | None,
    ) -> Landed:
        if (found := self.find(path, need, digest, len(data))) is not None:
            return found
        if self.direct and need.own is Own.FREE:
            landed = self._create(keys.object_key(self._folder, path), path, data, digest, attributes, source_e_tag)
            if landed is not None:
                return landed
        spare = keys.version_key(self._folder, path, digest)
        try:
            version = self._store.put(spare, data, mode=CREATE, attributes=attributes)
        except ObjectExists:
            # The digest in the key says what should lie here: a snapshot may name it, so it is left if it is right.
            if (there := self.verifier.is_there_by_two_reads(spare, digest)) is not None:
                return Landed(spare, there, "found", "read-back")
            version = self._store.put(spare, data, mode=OVERWRITE, attributes=attributes)
        return self._verified(spare, version, data, digest, source_e_tag) or self._damaged(spare, digest)

    def _create(
        self,
        key: str,
        path: str,
        data: bytes,
        digest: str,
        attributes: Attributes | None,
        source_e_tag: str | None,
    ) -> Landed | None:
        """Create the object at its own key; ``None`` when other bytes are or remain there."""
        metadata = self.metadata(path)
        try:
            version = self._store.put(key, data, mode=CREATE, metadata=metadata, attributes=attributes)
        except ObjectExists:
            there = self.verifier.is_there(key, digest)
            return None if there is None else Landed(key, there, "found", "read-back")
        return self._created(key, version, path, data, digest, attributes, source_e_tag)

    def _created(
        self,
        key: str,
        version: ObjectVersion,
        path: str,
        data: bytes,
        digest: str,
        attributes: Attributes | None,
        source_e_tag: str | None,
    ) -> Landed | None:
        """Verify what was just created at its own key; ``None`` when other bytes are there."""
        landed = self._verified(key, version, data, digest, source_e_tag)
        if landed is not None or not self._swaps:
            return landed
        # Bent on its way in: mend exactly the object just made, if nobody touched it since.
        metadata = self.metadata(path)
        try:
            version = self._store.put(key, data, mode=IfMatch(version), metadata=metadata, attributes=attributes)
        except PreconditionFailed:
            return None
        return self._verified(key, version, data, digest, source_e_tag)

    def withdraw(self, landed: Landed) -> None:
        """Take back what was just written here from bytes that turned out not to be the source's."""
        try:
            if self._store.head(landed.key).version.e_tag == landed.version.e_tag:
                self._store.delete(landed.key)
        except ObjectNotFound:
            return

    def _verified(
        self, key: str, version: ObjectVersion, data: bytes, digest: str, source_e_tag: str | None
    ) -> Landed | None:
        proof = self.verifier.check(key, version, digest, data=data, source_e_tag=source_e_tag)
        return None if proof is None else Landed(key, version, "copied", proof)

    def _damaged(self, key: str, digest: str) -> Landed:
        raise ReplicaDamaged(
            "bytes written here read back as other bytes",
            where=f"{self._store.name}: {key}",
            expected=digest,
            found=f"something else, {ATTEMPTS} times",
            fix="Have this store and the way to it checked; nothing was published there",
        )
