"""Receipts: proof that a replica's bytes were read back and hashed where they lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.documents import Document, UtcTime, canonical
from holdfast.engine.snapshot.errors import CommitRecordDamaged


class Receipt(Document):
    """Every object of the item was verified here as ``verification`` says, now or for an earlier receipt.

    With ``all``, every one was read back here and had its digest. With ``provider``, some were not read back: the
    checksum that this site's store computed of them agreed with the one of the bytes that were hashed. With
    ``sampled``, of some nothing is known but that the store took them whole. ``carried_objects`` were verified at
    least as strictly for an earlier snapshot and their version has not changed since.
    """

    format: Literal["holdfast.receipt/1"] = "holdfast.receipt/1"
    subject: str = Field(description="The dataset, model or run.")
    item: str = Field(description="Snapshot id or checkpoint manifest digest.")
    manifest_digest: str
    site: str
    source_site: str
    object_count: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    read_back_objects: int = Field(ge=0)
    read_back_bytes: int = Field(ge=0)
    carried_objects: int = Field(ge=0)
    verified_at: UtcTime
    verification: Literal["all", "provider", "sampled"] = "all"
    provider_objects: int = Field(0, ge=0, description="Not read back: the store's own checksum agreed.")
    written_objects: int = Field(0, ge=0, description="Neither read back nor compared.")
    encrypted: bool = Field(False, description="They lie here encrypted by the client.")

    def to_json(self) -> bytes:
        """The one spelling; what `all` has no need to say is left out, as before these fields were there."""
        fields = self.model_dump(mode="json")
        if self.verification == "all":
            for name in ("verification", "provider_objects", "written_objects"):
                del fields[name]
        if not self.encrypted:
            del fields["encrypted"]
        return canonical(fields)

    @property
    def key(self) -> str:
        return keys.receipt_key(self.subject, self.item, self.site)


def write_receipt(store: ObjectStore, receipt: Receipt) -> str:
    """Write a receipt, before the commit record; returns its key."""
    store.put(receipt.key, receipt.to_json(), mode=OVERWRITE, content_type="application/json")
    return receipt.key


def read_receipt(store: ObjectStore, subject: str, item: str, site: str) -> Receipt | None:
    """The receipt of a snapshot (or checkpoint) at a site, ``None`` when its bytes were never read back there."""
    key = keys.receipt_key(subject, item, site)
    try:
        data = store.get(key)
    except ObjectNotFound:
        return None
    try:
        return Receipt.model_validate_json(data)
    except ValidationError as error:
        raise CommitRecordDamaged(
            "the receipt cannot be read",
            where=f"{store.name}: {key}",
            expected="a holdfast.receipt/1 document",
            found=f"{error.error_count()} errors in it",
            fix="Replicate the snapshot again",
        ) from None
