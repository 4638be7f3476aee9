"""How it is known that the bytes at a target are the source's, and that the source's were read right.

At the target, by the dataset's policy:

- ``all``: every object is read back and hashed.
- ``provider``: the checksum that the target's store itself computed agrees with ours; where it tells none, the object
  is read back.
- ``sampled``: a share of the objects, chosen by their digests, is read back; of the others the store's checksum is
  compared where it came with the answer to the write, and else nothing but that answer is known.

At the source a digest is computed from bytes as they arrived, so they are compared with the source's own checksum.
An ETag that is the MD5 of the object serves for both ends: when two stores give an object the same one, each computed
it from the bytes it has.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import BytesCorrupted, ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import part_store
from holdfast.engine.snapshot.digest import PREFIX, Hasher, hash_stream

#: How an object is known to be right at a target: strongest first.
Proof = Literal["read-back", "provider", "written"]
#: An ETag that looks like the MD5 of an object that was put whole.
MD5_TAG = r'^"[0-9a-f]{32}"$'
_MD5 = re.compile(MD5_TAG)
_SHARE_DIGITS = 8


def is_md5(e_tag: str | None) -> bool:
    """Whether an ETag looks like the MD5 of an object that was put whole."""
    return e_tag is not None and _MD5.match(e_tag) is not None


def md5_tag(data: bytes) -> str:
    """The MD5 of the data as an ETag."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def in_sample(digest: str, share: float) -> bool:
    """Whether an object of this digest belongs to the share that is read back: the same at every site and time."""
    start = len(PREFIX)
    return bool(int(digest[start : start + _SHARE_DIGITS], 16) < share * 16**_SHARE_DIGITS)


class Verifier:
    """Verifies objects at one target as the policy asks. Safe to use from many threads."""

    def __init__(self, store: ObjectStore, policy: Sync) -> None:
        self._store, self._policy = store, policy
        self._parts = part_store(store)

    def is_there(self, key: str, digest: str, size_bytes: int | None = None) -> ObjectVersion | None:
        """Read an object back and hash it: the version that has this digest, ``None`` when it has another, or is not
        encrypted as what lies here has to be."""
        try:
            reader = self._store.open(key, size_bytes=size_bytes)
            return reader.info.version if hash_stream(reader).digest == digest else None
        except (ObjectNotFound, PreconditionFailed, BytesCorrupted):
            return None

    def is_there_by_two_reads(self, key: str, digest: str) -> ObjectVersion | None:
        """As `is_there`, before what has another digest is replaced: one read may have been wrong itself."""
        return self.is_there(key, digest) or self.is_there(key, digest)

    def check(
        self,
        key: str,
        version: ObjectVersion,
        digest: str,
        *,
        data: bytes | None = None,
        sums: Checksums | None = None,
        source_e_tag: str | None = None,
    ) -> Proof | None:
        """Whether what was just written is right; ``None``: other bytes are there.

        Args:
            version: what the write answered.
            data: the object's bytes where they are in memory.
            sums: their checksums where they were computed on the way.
            source_e_tag: what the source calls these bytes.
        """
        if (proof := self.told(version, digest, source_e_tag)) is not None:
            return proof
        if self._reads_back(digest):
            size_bytes = None if data is None else len(data)
            return "read-back" if self.is_there(key, digest, size_bytes) is not None else None
        if data is not None and is_md5(version.e_tag) and version.e_tag == md5_tag(data):
            return "provider"
        if self._policy.verify is Verification.SAMPLED:
            return "written"
        return self._by_provider(key, version, digest, data, sums)

    def told(self, version: ObjectVersion, digest: str, source_e_tag: str | None) -> Proof | None:
        """Whether the answer to the write alone tells that it is right; ``None``: more has to be asked.

        Args: as `check`.
        """
        same = version.e_tag == source_e_tag and is_md5(version.e_tag)
        return "provider" if same and not self._reads_back(digest) else None

    def _reads_back(self, digest: str) -> bool:
        policy = self._policy
        return policy.verify is Verification.ALL or (
            policy.verify is Verification.SAMPLED and in_sample(digest, policy.sample_share)
        )

    def check_large(
        self,
        key: str,
        version: ObjectVersion,
        digest: str,
        *,
        sums: Checksums,
        source_e_tag: str | None,
        buffer: memoryview,
    ) -> Proof | None:
        """As `check`, of an object that was never in memory whole; it is read back into the buffer."""
        if self._parts is None or self._policy.verify is not Verification.ALL:
            return self.check(key, version, digest, sums=sums, source_e_tag=source_e_tag)
        hasher = Hasher()
        while hasher.size_bytes < sums.size_bytes:
            view = buffer[: min(len(buffer), sums.size_bytes - hasher.size_bytes)]
            try:
                self._parts.read_into(key, hasher.size_bytes, view, if_match=version)
            except (ObjectNotFound, PreconditionFailed):
                return None
            hasher.update(view)
        return "read-back" if hasher.digest == digest else None

    def _by_provider(
        self,
        key: str,
        version: ObjectVersion,
        digest: str,
        data: bytes | None,
        sums: Checksums | None,
    ) -> Proof | None:
        try:
            stored = self._parts.stored_checksums(key, version) if self._parts is not None else None
        except (ObjectNotFound, PreconditionFailed):
            return None
        mine = sums if sums is not None else Checksums.of(data) if data is not None else None
        if stored is not None and mine is not None:
            if mine.contradicts(stored) is not None:
                return None
            if mine.confirms(stored):
                return "provider"
        return "read-back" if self.is_there(key, digest) is not None else None


class SourceCheck:
    """Whether bytes arrived from the source as the source has them. Safe to use from many threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._parts = part_store(store)

    def agrees(
        self, key: str, pin: ObjectVersion | None, *, data: bytes | None = None, sums: Checksums | None = None
    ) -> bool | None:
        """Compare with the source's own checksum; ``None``: it tells none.

        Raises:
            PreconditionFailed, ObjectNotFound: the object moved.
        """
        if pin is None:
            return None
        if data is not None and is_md5(pin.e_tag) and md5_tag(data) == pin.e_tag:
            return True
        stored = self._parts.stored_checksums(key, pin) if self._parts is not None else None
        if stored is None:
            return None
        mine = sums if sums is not None else Checksums.of(data or b"")
        if mine.contradicts(stored) is not None:
            return False
        return True if mine.confirms(stored) else None
