"""Certificates of shredding: which keys were removed where, when and why, signed by the ledger's keys.

A certificate is a signed note ([C2SP](https://c2sp.org/signed-note)) whose text is canonical JSON and a newline. It
names keys by their ids, never a subject.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Document as Evidence
from holdfast.engine.audit.manifest import Count, Manifest
from holdfast.engine.audit.privacy.keys import SHREDDED
from holdfast.engine.audit.problems import Problem, of_error
from holdfast.engine.audit.tlog.keys import Signer, VerifierKey
from holdfast.engine.audit.tlog.notes import Note, Policy, sign, verify
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.once import create_or_read
from holdfast.errors import HoldfastError

#: Where an export has them.
FOLDER = f"privacy/{SHREDDED}"


class Certificate(Document):
    """Keys of one subject that are gone."""

    format: Literal["holdfast.shred/1"] = "holdfast.shred/1"
    origin: str
    next_seal: Count = Field(description="The seal that comes after it, and carries it")
    keys: tuple[str, ...] = Field(description="Ids of the keys, in hex")
    sites: dict[str, Count] = Field(description="Per site how many versions of key objects were removed")
    shredded_at: UtcTime
    shredded_by: str
    reason: str

    @property
    def name(self) -> str:
        """Of its object, below the keys' prefix."""
        return f"{SHREDDED}{self.next_seal:08d}-{self.keys[0] if self.keys else 'unread'}.note"


def signed(certificate: Certificate, signers: Sequence[Signer]) -> bytes:
    """The certificate as a note."""
    return sign(certificate.to_json().decode() + "\n", signers)


def parse_certificate(data: bytes, where: str) -> Certificate:
    """The certificate in a note, whose signatures are not looked at. Raises Tampered."""
    try:
        text = Note.parse(data).text
        found = Certificate.model_validate(json.loads(text))
        if found.to_json().decode() + "\n" != text:
            raise ValueError("not canonical JSON")
    except (ValidationError, ValueError, RecursionError, HoldfastError) as error:
        raise Tampered(
            "a certificate of shredding cannot be read",
            where=where,
            expected="holdfast.shred/1",
            found=str(error)[:200],
        ) from None
    return found


def certificates_in(folder: Path, manifest: Manifest) -> Iterator[Certificate]:
    """Those an export carries. Raises Tampered."""
    for one in manifest.documents:
        if one.file.path.startswith(FOLDER):
            yield parse_certificate((folder / one.file.path).read_bytes(), one.file.path)


def check_certificates(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Each must be of this ledger, and signed by all who signed the checkpoint."""
    keys = tuple(VerifierKey.parse(text) for text in manifest.signers)
    for one in manifest.documents:
        if not one.file.path.startswith(FOLDER):
            continue
        try:
            data = (folder / one.file.path).read_bytes()
            found = parse_certificate(data, one.file.path)
            verify(data, Policy.of(*keys))
            if found.origin != manifest.origin:
                raise Tampered("a certificate of another ledger", where=one.file.path, found=found.origin)
        except HoldfastError as error:
            yield of_error(error, "certificate-invalid", one.file.path)


def deliver(stores: Mapping[str, ObjectStore], home: Path) -> dict[str, HoldfastError]:
    """Bring this machine's certificates to every site, and forget those that all have.

    Returns:
        The sites that lack one, and why.
    """
    missing: dict[str, HoldfastError] = {}
    for file in _waiting(home):
        name, data, lacking = f"{SHREDDED}{file.name}", file.read_bytes(), False
        for site, store in stores.items():
            try:
                parse_certificate(create_or_read(store, name, data), f"{site}/{name}")
            except HoldfastError as error:
                missing[site], lacking = error, True
        if not lacking:
            file.unlink()
    return missing


def _waiting(home: Path) -> list[Path]:
    return sorted((home / SHREDDED).glob("*.note"))


def certificates_at(store: ObjectStore) -> Iterator[Certificate]:
    """Those that lie with the keys. Raises Tampered, ObjectStoreError."""
    for found in store.list(SHREDDED):
        yield parse_certificate(store.get(found.key), f"{store.name}/{found.key}")


def new_certificates(store: ObjectStore, seal: int, carried: Manifest | None, home: Path) -> Iterator[Evidence]:
    """Those that an export has to carry: of the time since the seal before, and what that one came too early for.

    Args:
        store: the keys', at the first site.
        seal: the export's.
        carried: the manifest of the seal before.
        home: where this machine keeps those that are not at every site yet.
    """
    known = {one.file.path for one in carried.documents} if carried else set()
    found = {f"{FOLDER}{file.name}": file.read_bytes() for file in _waiting(home)}
    for number in range(max(seal - 1, 0), seal + 1):
        for one in store.list(f"{SHREDDED}{number:08d}-"):
            found[f"privacy/{one.key}"] = store.get(one.key)
    for path in sorted(found.keys() - known):
        yield Evidence(path, "text/plain", found[path])
