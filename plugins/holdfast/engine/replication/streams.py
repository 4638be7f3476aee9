"""One large object on its way to one target: which key, which parts are there already, and what it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.clock import Clock
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    ObjectExists,
    ObjectNotFound,
    StoreUnavailable,
    UploadGone,
)
from holdfast.engine.objectstore.interface import CREATE, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import PartStore, Upload, UploadedPart
from holdfast.engine.replication.copying import Item, Receiver
from holdfast.engine.replication.journal import UploadNote, note_key, read_note, write_note
from holdfast.engine.replication.landing import ATTEMPTS, BACKOFF_SECONDS, UNKNOWN, Landed, Need, Own
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.errors import HoldfastError


def spare_key(folder: str, item: Item, *, salt: str | None = None) -> str:
    """Where a large object lands whose own key is taken.

    Its digest is not known before its last part is sent, so unless it was known before, the place is named for the
    state of the source's object; with a salt, for that and the salt: another place for the same state.
    """
    if item.digest is not None:
        return keys.version_key(folder, item.path, item.digest)
    pin = item.pin
    state = [item.key, item.size_bytes, pin.e_tag if pin else None, pin.version if pin else None]
    return keys.version_key(folder, item.path, digest_of(canonical(state if salt is None else [*state, salt])))


@dataclass(frozen=True)
class Origin:
    """Which dataset, from where."""

    dataset: str
    folder: str
    site: str


@dataclass
class Stream:
    """The parts of one object at one target. `put` may be called from many threads, everything else from one."""

    origin: Origin
    item: Item
    need: Need
    receiver: Receiver
    store: ObjectStore
    parts: PartStore
    part_bytes: int
    clock: Clock
    #: Keys of the notes at this target, earlier runs' and this one's.
    notes: set[str]
    upload: Upload | None = None
    #: The parts that are there, by number.
    have: dict[int, UploadedPart] = field(default_factory=dict)
    #: Bytes of the right size lie at this key already; whether they are right is told when the digest is known.
    candidate: str | None = None
    #: It comes to nothing in this round; the next one looks again.
    over: bool = False
    #: Parts that were sent, not found.
    sent_bytes: int = 0
    #: The next part where parts go in order.
    turn: int = 1
    #: A part an earlier run sent was believed by its size: its store tells no checksum of it.
    believed: bool = False

    @property
    def open(self) -> bool:
        """Whether parts are to be put."""
        return not self.over and self.upload is not None and self.receiver.active

    def begin(self, attributes: Attributes) -> None:
        """Find the upload of an earlier run, or begin one; or find that the object may be there already."""
        landing, folder = self.receiver.landing, self.origin.folder
        own, spare = keys.object_key(folder, self.item.path), spare_key(folder, self.item)
        if landing.is_spare_taken(spare):
            spare = spare_key(folder, self.item, salt=landing.run_id)
        direct = landing.direct and self.need.own is not Own.TAKEN
        if direct and self.need.own is Own.MAYBE:
            self.candidate = own
            return
        if landing.spare_bytes(spare) == self.item.size_bytes:
            self.candidate = spare
            return
        key = own if direct else spare
        if self._resume(key):
            return
        metadata = landing.metadata(self.item.path) if direct else None
        try:
            self.upload = self.parts.begin(
                key,
                size_bytes=self.item.size_bytes,
                metadata=metadata,
                attributes=landing.attributes(attributes),
                mode=CREATE,
                part_bytes=self.part_bytes,
            )
        except ObjectExists:
            self.candidate = key
            return
        self._note(self.upload)

    def _note(self, upload: Upload) -> None:
        item, pin = self.item, self.item.pin or UNKNOWN
        self.notes.add(note_key(self.origin.dataset, item.path))
        write_note(
            self.store,
            UploadNote(
                dataset=self.origin.dataset,
                path=item.path,
                key=upload.key,
                upload_id=upload.upload_id,
                started_at=upload.started_at,
                part_bytes=self.part_bytes,
                source_site=self.origin.site,
                source_key=item.key,
                source_version=pin.version,
                source_e_tag=pin.e_tag,
                size_bytes=item.size_bytes,
            ),
        )

    def _resume(self, key: str) -> bool:
        """Go on with an earlier run's upload of the same bytes; drop one of other bytes."""
        name = note_key(self.origin.dataset, self.item.path)
        note = read_note(self.store, name) if name in self.notes else None
        if note is None:
            return False
        same = note.is_of(self.origin.site, self.item.key, self.item.pin or UNKNOWN, self.item.size_bytes)
        if not same or (note.key, note.part_bytes) != (key, self.part_bytes):
            self.parts.abort(note.upload)
            return False
        try:
            self.have = {part.number: part for part in self.parts.parts(note.upload)}
        except UploadGone:
            return False
        self.upload = note.upload
        return True

    def put(self, number: int, data: memoryview, sums: Checksums) -> None:
        """Have one part there. A failure of the target is the receiver's."""
        there = self.have.get(number)
        if there is not None and (known := _is_part(there, sums)) is not False:
            self.believed = self.believed or known is None
            return
        try:
            self.have[number] = self._put(number, data, sums)
            self.sent_bytes += len(data)
        except UploadGone:
            self.over = True
        except HoldfastError as error:
            self.receiver.fail(error)

    def _put(self, number: int, data: memoryview, sums: Checksums) -> UploadedPart:
        assert self.upload is not None
        attempt = 0
        while True:
            try:
                return self.parts.put_part(self.upload, number, data, checksums=sums)
            except (StoreUnavailable, BytesCorrupted):
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
            self.clock.sleep(BACKOFF_SECONDS * 2**attempt)

    def finish(self, digest: str, sums: Checksums, buffer: memoryview) -> Landed | None:
        """Make the parts an object and verify it; ``None``: it is not there, the next round looks again.

        Args:
            digest: of the source's bytes.
            sums: their checksums.
            buffer: to read back into.
        """
        if self.need.base_key is not None and self.need.base_digest == digest:
            self.drop()
            return Landed(self.need.base_key, UNKNOWN, "carried", "read-back")
        if self.over:
            return None
        if self.candidate is not None:
            return self._found(self.candidate, digest)
        assert self.upload is not None
        key = self.upload.key
        try:
            self._complete(sums)
            # What listings will show is what gets verified: not every store answers a completion with that version.
            version = self.store.head(key).version
        except ObjectExists:
            self.drop()
            return self._found(key, digest)
        except (UploadGone, ObjectNotFound):
            self.over = True
            return None
        except BytesCorrupted:  # a part an earlier run sent: which one is not told, so all are sent anew
            self.drop()
            self.over = True
            return None
        proof = self.receiver.landing.verifier.check_large(
            key, version, digest, sums=sums, source_e_tag=self.item.pin.e_tag if self.item.pin else None, buffer=buffer
        )
        if proof == "written" and self.believed:
            proof = "read-back" if self.receiver.landing.verifier.is_there(key, digest) is not None else None
        if proof is None:
            self._bad(key)
            return None
        return Landed(key, version, "copied", proof)

    def _complete(self, sums: Checksums) -> ObjectVersion:
        assert self.upload is not None
        ordered = [self.have[number] for number in sorted(self.have)]
        attempt = 0
        while True:
            try:
                return self.parts.complete(
                    self.upload, ordered, size_bytes=self.item.size_bytes, checksums=sums, mode=CREATE
                )
            except StoreUnavailable:
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
            self.clock.sleep(BACKOFF_SECONDS * 2**attempt)

    def _found(self, key: str, digest: str) -> Landed | None:
        if (version := self.receiver.landing.verifier.is_there_by_two_reads(key, digest)) is not None:
            return Landed(key, version, "found", "read-back")
        self._bad(key, named=keys.version_key(self.origin.folder, self.item.path, digest) == key)
        return None

    def _bad(self, key: str, *, named: bool = True) -> None:
        """Other bytes are where this object's would be.

        Args:
            key: where.
            named: the key is named for this object's bytes, or this upload made what is there.
        """
        if key == keys.object_key(self.origin.folder, self.item.path):
            self.receiver.landing.taken(self.item.path)
        elif not named:  # bytes that a snapshot may name: what the key is named for need not tell two states apart
            self.receiver.landing.spare_taken(key)
        else:
            self.store.delete(key)  # named for these very bytes: nobody's but ours, and not them
            self.receiver.landing.forget_spare(key)

    def keep_what_is_right(self) -> None:
        """Some parts have wrong bytes: the upload stays where each can be compared, and is dropped elsewhere."""
        if self.upload is None:
            return
        try:
            comparable = all(_tells(part) for part in self.parts.parts(self.upload))
        except UploadGone:
            return
        if not comparable:
            self.drop()

    def drop(self) -> None:
        """End the upload without an object."""
        if self.upload is not None:
            self.parts.abort(self.upload)
            self.upload = None
            name = note_key(self.origin.dataset, self.item.path)
            self.store.delete(name)
            self.notes.discard(name)


def _is_part(there: UploadedPart, sums: Checksums) -> bool | None:
    """Whether a part that survived is these bytes; ``None``: its size is right, and the store tells no more."""
    known = Checksums(there.crc64nvme, there.crc32c, there.size_bytes)
    if sums.contradicts(known) is not None:
        return False
    return True if sums.confirms(known) else None


def _tells(part: UploadedPart) -> bool:
    return part.crc64nvme is not None or part.crc32c is not None
