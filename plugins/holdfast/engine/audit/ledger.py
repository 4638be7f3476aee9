"""The ledger: seals in order, each with its export, at sites of two clouds or more.

Below its prefix (docs/formats/audit-export.md)::

    seals/<number:08>.json        create-only; the first site's says which seal is the next one
    exports/<number:08>-<16 hex>/ the export's files
    tile/…                        C2SP tlog-tiles, for proofs

The first site orders what is appended: a seal's record is created there last and create-only, so of two sealers one
wins and the other collects anew. Every other site gets the same record afterwards, and none is ever taken away: a site
that holds more seals than the first shows that the first was rolled back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.audit.errors import SealedMeanwhile, Tampered
from holdfast.engine.audit.manifest import (
    CHECKPOINT,
    MANIFEST,
    RANGE,
    UNLISTED,
    Count,
    Digest,
    File,
    Manifest,
    Previous,
    parse_manifest,
    safe_path,
)
from holdfast.engine.audit.tlog.merkle import CompactRange
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.once import create_or_read
from holdfast.errors import ConfigError, HoldfastError, UnknownName

FORMAT = "holdfast.seal/1"
_SEALS, _EXPORTS = "seals/", "exports/"
_CHUNK_BYTES = 4 * 1024 * 1024


class SealRecord(Document):
    """One seal, as the ledger orders it."""

    format: Literal["holdfast.seal/1"] = "holdfast.seal/1"
    origin: str
    seal: Count
    first_leaf: Count
    size: Count
    root: Digest
    frontier: tuple[Digest, ...] = Field(description="The compact range of all leaves, from left to right")
    sealed_at: UtcTime
    manifest_sha256: Digest
    folder: str = Field(pattern=r"^[0-9]{8}-[0-9a-f]{16}$")
    previous_sha256: Digest | None = Field(description="Of the record before this one")
    checkpoint: str = Field(description="The signed note")

    @property
    def range(self) -> CompactRange:
        """All leaves up to this seal."""
        return CompactRange(0, self.size, tuple(bytes.fromhex(found) for found in self.frontier))

    def as_previous(self) -> Previous:
        """What the next manifest says of it."""
        return Previous(seal=self.seal, size=self.size, root=self.root, sealed_at=self.sealed_at)


def seal_key(number: int) -> str:
    """Of a seal's record."""
    return f"{_SEALS}{number:08d}.json"


def folder_name(number: int, manifest_sha256: str) -> str:
    """Of a seal's export: two sealers of one number never write into one another's."""
    return f"{number:08d}-{manifest_sha256[:16]}"


@dataclass(frozen=True)
class Copied:
    """What a site has of a seal.

    Args:
        error: why it does not have it; ``None``: it has all of it.
        tiles: why its tiles are behind, which the next seal makes up for.
    """

    site: str
    error: HoldfastError | None = None
    tiles: HoldfastError | None = None


class Ledger:
    """The ledger at its sites.

    Args:
        origin: its name.
        stores: by site, in order, each below the ledger's prefix; the first orders.
    """

    def __init__(self, origin: str, stores: Mapping[str, ObjectStore]) -> None:
        if not stores:
            raise ConfigError("a ledger without sites", where=origin, expected="one at least", found="none")
        self.origin = origin
        self.stores = dict(stores)

    @property
    def first(self) -> str:
        """The site that orders."""
        return next(iter(self.stores))

    def numbers(self, site: str) -> list[int]:
        """The seals a site has, in order."""
        return sorted(_number(found.key) for found in self.stores[site].list(_SEALS))

    def record(self, number: int, site: str | None = None) -> SealRecord:
        """A seal's record. Raises Tampered, UnknownName, ObjectStoreError."""
        at = site or self.first
        key = seal_key(number)
        where = f"{self.stores[at].name}/{key}"
        try:
            data = self.stores[at].get(key)
        except ObjectNotFound:
            raise UnknownName("there is no such seal", where=where, expected="its record", found="nothing") from None
        record = parse_record(data, where)
        if record.origin != self.origin or record.seal != number:
            raise Tampered(
                "this record is another ledger's, or another seal's",
                where=where,
                expected=f"seal {number} of {self.origin}",
                found=f"seal {record.seal} of {record.origin}",
            )
        return record

    def head(self) -> SealRecord | None:
        """The newest seal; ``None``: nothing was sealed yet.

        Raises:
            Tampered: seals are missing in between, or another site has newer or other ones: the first was rolled back.
            ObjectStoreError: the first site cannot be read.
        """
        numbers = self.numbers(self.first)
        _check_row(numbers, self.stores[self.first].name)
        newest = self.record(numbers[-1]) if numbers else None
        for site in list(self.stores)[1:]:
            self._check_other(site, newest)
        return newest

    def _check_other(self, site: str, newest: SealRecord | None) -> None:
        try:
            there = self.numbers(site)
            if not there:
                return
            last = self.record(there[-1], site)
        except ObjectStoreError:
            return  # a site that is away tells nothing; the seal is copied to it when it is back
        if newest is None or last.seal > newest.seal:
            raise Tampered(
                "the ledger's first site lacks seals that another site has: it was rolled back",
                where=self.stores[self.first].name,
                expected=f"seal {last.seal}, which {site} has",
                found="none" if newest is None else f"seal {newest.seal}",
                fix=f"Name {site} first in `audit.sites`, and find out what happened to {self.first}",
            )
        same = self.record(last.seal)
        if same != last:
            raise Tampered(
                "two sites have different seals of the same number: the ledger was forked",
                where=seal_key(last.seal),
                expected=f"root {same.root} at {self.first}",
                found=f"root {last.root} at {site}",
            )

    def publish(self, export: Path, manifest: Manifest, record: SealRecord) -> list[Copied]:
        """Bring an export and its record to every site; the record at the first decides.

        Returns:
            Per site what it has. Another site than the first may be away: `repair` brings it up to date.

        Raises:
            SealedMeanwhile: another seal has this number.
            ObjectStoreError: the first site does not answer.
        """
        self._copy_export(self.first, export, manifest, record)
        key = seal_key(record.seal)
        found = create_or_read(self.stores[self.first], key, record.to_json(), content_type="application/json")
        if found != record.to_json():
            raise SealedMeanwhile(
                "somebody else sealed meanwhile",
                where=f"{self.stores[self.first].name}/{key}",
                expected=f"root {record.root}",
                found="another seal",
                fix="Run it again: it goes on from the newest seal",
            )
        return [Copied(self.first), *(self._copy_to(site, export, manifest, record) for site in list(self.stores)[1:])]

    def _copy_to(self, site: str, export: Path, manifest: Manifest, record: SealRecord) -> Copied:
        try:
            self._copy_export(site, export, manifest, record)
            found = create_or_read(
                self.stores[site], seal_key(record.seal), record.to_json(), content_type="application/json"
            )
        except ObjectStoreError as error:
            return Copied(site, error)
        if found != record.to_json():
            return Copied(site, Tampered("another seal lies at its place", where=f"{site}/{seal_key(record.seal)}"))
        return Copied(site)

    def _copy_export(self, site: str, export: Path, manifest: Manifest, record: SealRecord) -> None:
        store = self.stores[site]
        for name in export_names(export, manifest):
            key = f"{_EXPORTS}{record.folder}/{name}"
            file = export / name
            size = file.stat().st_size
            try:
                if store.head(key).size_bytes == size:
                    continue  # an earlier try's: its name has the manifest's digest, so it is the same bytes
            except ObjectNotFound:
                pass
            if size <= _CHUNK_BYTES:
                store.put(key, file.read_bytes())
            else:
                store.put(key, _chunks(file))

    def fetch(self, record: SealRecord, folder: Path, *, site: str | None = None) -> Path:
        """Bring a seal's export into a folder, with its checkpoint. Nothing is checked: `verify_export` does that.

        Raises:
            ConfigError: there is something in the folder, or it cannot be written.
            Tampered: a name leads out of the folder, or two are one where case is ignored, or one is in the other.
            ObjectStoreError.
        """
        require_empty(folder)
        store = self.stores[site or self.first]
        prefix = f"{_EXPORTS}{record.folder}/"
        names = [found.key.removeprefix(prefix) for found in store.list(prefix)]
        _expect_apart(names)
        for name in names:
            try:
                target = _inside(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as opened:
                    for chunk in store.open(prefix + name):
                        opened.write(chunk)
            except OSError as error:
                raise ConfigError(
                    "a file of the export cannot be written", where=f"{folder}/{name[:200]}", found=str(error.strerror)
                ) from None
        return folder

    def repair(self, record: SealRecord, scratch: Path) -> list[Copied]:
        """Bring every site up to a seal that the first one has: also seals before it that a site lacks.

        Args:
            scratch: an empty folder.

        Returns:
            Per site and seal that was brought, and per site that is away.

        Raises:
            Tampered, ObjectStoreError: of the first site.
        """
        done, lacking = list[Copied](), dict[int, list[str]]()
        numbers = [number for number in self.numbers(self.first) if number <= record.seal]
        for site in list(self.stores)[1:]:
            try:
                there = set(self.numbers(site))
            except ObjectStoreError as error:
                done.append(Copied(site, error))
                continue
            for number in numbers:
                if number not in there:
                    lacking.setdefault(number, []).append(site)
        for number, sites in sorted(lacking.items()):
            found, folder = self.record(number), scratch / f"{number:08d}"
            self.fetch(found, folder)
            manifest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
            done += [self._copy_to(site, folder, manifest, found) for site in sites]
            shutil.rmtree(folder)
        return done


def parse_record(data: bytes, where: str) -> SealRecord:
    """A seal's record from its bytes. Raises Tampered."""
    try:
        record = SealRecord.model_validate(json.loads(data))
        if record.range.root.hex() != record.root:
            raise ValueError("the frontier is not the root's")
    except (ValidationError, ValueError, RecursionError, HoldfastError) as error:
        raise Tampered(
            "the seal's record cannot be read", where=where, expected=FORMAT, found=str(error)[:300]
        ) from None
    return record


def export_names(export: Path, manifest: Manifest) -> Iterable[str]:
    """The files of an export that lie in a folder, the manifest and the checkpoint last."""
    yield from (file.path for file in manifest.files())
    yield from (name for name in sorted(UNLISTED - {MANIFEST, CHECKPOINT, RANGE}) if (export / name).exists())
    yield from (RANGE, MANIFEST, CHECKPOINT)


def require_empty(folder: Path) -> None:
    """Raises ConfigError unless a folder is empty or not there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "there is something here already",
            where=str(folder),
            expected="an empty folder, or none",
            found="files" if folder.is_dir() else "a file",
            fix="Name another folder; nothing was written",
        )
    folder.mkdir(parents=True, exist_ok=True)


def reference(root: Path, name: str) -> File:
    """A file of an export as its manifest names it."""
    from holdfast.engine.audit.segments import file_sha256

    file = root / name
    return File(path=name, sha256=file_sha256(file), size_bytes=file.stat().st_size)


def _inside(folder: Path, name: str) -> Path:
    if name not in UNLISTED:
        try:
            safe_path(name)
        except ValueError as error:
            raise Tampered("a file's name leads out of the export", where=name[:200], found=str(error)[:300]) from None
    return folder / name


def _expect_apart(names: Iterable[str]) -> None:
    """Raises Tampered: not every name can be a file of its own on every system."""
    files, folders = set[str](), set[str]()
    for name in names:
        folded = name.casefold()
        above = {str(found) for found in PurePosixPath(folded).parents}
        if folded in files or folded in folders or above & files:
            raise Tampered("two files of the export would be one", where=name[:200], expected="names that lie apart")
        files.add(folded)
        folders |= above


def _chunks(file: Path) -> Iterable[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(_CHUNK_BYTES):
            yield data


def _number(key: str) -> int:
    text = key.removeprefix(_SEALS).removesuffix(".json")
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        raise Tampered("this is no seal's record", where=key, expected="seals/<8 digits>.json", found=key)
    return int(text)


def _check_row(numbers: list[int], where: str) -> None:
    if numbers and numbers != list(range(len(numbers))):
        held = set(numbers)
        # Not up to the last of them: whoever can write one name could then have a hundred million numbers counted.
        missing = [number for number in range(len(numbers) + 10) if number not in held and number < numbers[-1]]
        raise Tampered(
            "seals are missing from the ledger",
            where=where,
            expected=f"seals 0 to {numbers[-1]}",
            found=f"without {', '.join(map(str, missing[:10]))}",
        )
