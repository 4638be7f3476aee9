"""One state's blobs on their way into the store: encoded where the policy says so, one at a time, whatever it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holdfast.engine.checkpoint.commit import ensure_blob
from holdfast.engine.checkpoint.compression import BlobEncoder
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, digest_of
from holdfast.engine.checkpoint.verify import blob_is_intact
from holdfast.engine.objectstore.interface import ObjectStore


class Storing:
    """Has a state's blobs in the store and says how they lie there; call `ensure` again after a failure.

    A blob the parent has too keeps the parent's form: another version of Zstandard makes other bytes of the same
    content, and an unchanged tensor is neither encoded nor sent again. An encoded blob's bytes are held only while
    they are written: beside the state there is one encoded blob in memory.

    Args:
        blobs: the state's, plain.
        parent: the checkpoint before, in the same store; None: there is none.
        intact: digests this process knows to be in the store; those that get there are added.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        blobs: Mapping[str, bytes],
        *,
        parent: CheckpointManifest | None,
        encoder: BlobEncoder,
        intact: set[str],
    ) -> None:
        self._store, self._run, self._blobs = store, run, blobs
        self._encoder, self._intact = encoder, intact
        known = parent.blobs.values() if parent is not None and parent.run == run else ()
        #: The form of each content: the parent's, and what this state's got in an earlier try.
        self._forms = {reference.content: reference for reference in known if encoder.may_keep(reference)}
        self._contents = {name: digest_of(data) for name, data in blobs.items()}

    def ensure(self) -> dict[str, BlobRef]:
        """Every blob in the store, by name. Raises ObjectStoreError."""
        return {name: self._ensure(self._contents[name], data) for name, data in self._blobs.items()}

    def _ensure(self, content: str, data: bytes) -> BlobRef:
        known = self._forms.get(content)
        if known is not None and self._is_there(known):
            return known
        reference, stored = self._encoder.form(data, content) if known is None or known.encoding else (known, data)
        if reference.digest not in self._intact:
            ensure_blob(self._store, self._run, reference.digest, stored)
            self._intact.add(reference.digest)
        self._forms[content] = reference
        return reference

    def _is_there(self, reference: BlobRef) -> bool:
        if reference.digest in self._intact:
            return True
        if reference.encoding is None or not blob_is_intact(self._store, self._run, reference.digest):
            return False  # a plain one is not read before it is written: writing it says whether it is there
        self._intact.add(reference.digest)
        return True


class StoredForms(Mapping[str, bytes]):
    """A state's blobs as they are stored, by the digest of that, for the replicas: encoded again when they are read.

    So the replicas cost a core's time and no memory, and do not depend on the source. What does not come out the same
    is not here; it is read from the store.

    Args:
        plain: the plain blobs by the digest of their content.
    """

    def __init__(self, manifest: CheckpointManifest, plain: Mapping[str, bytes], encoder: BlobEncoder) -> None:
        self._plain, self._encoder = plain, encoder
        here = set(plain)  # asking `plain` itself would read it
        self._references = {one.digest: one for one in manifest.blobs.values() if one.content in here}

    def __getitem__(self, digest: str) -> bytes:
        reference = self._references[digest]
        stored = self._encoder.again(self._plain[reference.content], reference)
        if stored is None:
            raise KeyError(digest)
        return stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)
