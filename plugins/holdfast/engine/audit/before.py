"""What earlier seals of a ledger say, read from its first site and checked against the manifests that were sealed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.ledger import Ledger, SealRecord
from holdfast.engine.audit.manifest import MANIFEST, File, Manifest, parse_manifest


@dataclass(frozen=True)
class Before:
    """What a seal says of each source; without a record nothing."""

    ledger: Ledger
    record: SealRecord | None

    def of(self, source: str) -> Before:
        """The newest seal up to this one that has this source: it may have been away from the topology."""
        for at in self.back():
            if at.manifest and any(one.name == source for one in at.manifest.sources):
                return at
        return Before(self.ledger, None)

    def back(self) -> Iterator[Before]:
        """This seal and those before it, the newest first. Raises Tampered, UnknownName, ObjectStoreError."""
        at = self
        while at.record is not None:
            yield at
            at = Before(self.ledger, self.ledger.record(at.record.seal - 1) if at.record.seal else None)

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of its export; ``None``: there is none. Raises Tampered, ObjectStoreError."""
        if self.record is None:
            return None
        data = self._get(MANIFEST)
        if sha256(data).hexdigest() != self.record.manifest_sha256:
            raise Tampered(
                "an export's manifest is not the one that was sealed",
                where=f"exports/{self.record.folder}/{MANIFEST}",
                expected=self.record.manifest_sha256,
                found=sha256(data).hexdigest(),
            )
        return parse_manifest(data, MANIFEST)

    def document(self, path: str) -> bytes | None:
        """A document of it; ``None``: it has none there. Raises Tampered, ObjectStoreError."""
        found = self.manifest.document(path) if self.manifest else None
        return None if found is None else self.read(found.file)

    def read(self, file: File) -> bytes:
        """A file that its manifest names. Raises Tampered: it is not the one that was sealed; ObjectStoreError."""
        data = self._get(file.path)
        if sha256(data).hexdigest() != file.sha256:
            raise Tampered("a file of an export is not the one that was sealed", where=file.path)
        return data

    def _get(self, name: str) -> bytes:
        assert self.record is not None
        return self.ledger.stores[self.ledger.first].get(f"exports/{self.record.folder}/{name}")
