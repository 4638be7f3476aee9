"""Which files of an export make up a billing period now: the newest delivery's, and nothing twice.

AWS Data Exports writes a ``…-Manifest.json`` per billing period once all its files are there; Azure a ``manifest.json``
per run with the rows of each file. Files beside no manifest (BigQuery's, or copied by hand) count by their folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.cost.errors import BillDamaged
from holdfast.engine.cost.periods import Period, month_of
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

_AWS_MANIFEST = re.compile(r"^(?P<root>.*?)metadata/(?P<part>BILLING_PERIOD=\d{4}-\d{2})/(?:.*/)?[^/]*-Manifest\.json$")
_AWS_PART = re.compile(r"BILLING_PERIOD=(\d{4})-(\d{2})(?:/|$)")
_AZURE_RANGE = re.compile(r"(?:^|/)(\d{4})(\d{2})\d{2}-\d{8}/")
_DATA = (".parquet", ".csv", ".csv.gz")
_MOST_OBJECTS = 200_000
_MOST_MANIFEST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BillFile:
    """One file; ``rows`` where the manifest says how many it has."""

    key: str
    size_bytes: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one run delivered of one billing period.

    Args:
        root: what it replaces older ones of: the export's folder, without the run.
        period: ``None``: only the lines say.
        files: all it is made of.
        delivered_at: by the store's clock.
        version: of FOCUS, where a manifest says so.
        by: ``manifest`` or ``folder``.
        damage: why it cannot be read, where that is known already.
    """

    root: str
    period: Period | None
    files: tuple[BillFile, ...]
    delivered_at: datetime
    version: str | None = None
    by: str = "manifest"
    damage: BillDamaged | None = None


@dataclass(frozen=True)
class Deliveries:
    """What is to be read, and what older ones were left out for it."""

    current: tuple[Delivery, ...]
    superseded: tuple[Delivery, ...]


def find_deliveries(store: ObjectStore, *, bucket: str, prefix: str) -> Deliveries:
    """The deliveries of one export.

    Args:
        store: the export's folder; keys are relative to it.
        bucket, prefix: of the folder, as manifests name them.

    Raises:
        BillDamaged: a manifest cannot be read, or there are more objects than any export has.
        ObjectStoreError: the store cannot be listed.
    """
    objects: dict[str, ObjectInfo] = {}
    for info in store.list(""):
        objects[info.key] = info
        if len(objects) > _MOST_OBJECTS:
            raise BillDamaged(
                "the export's folder holds too much",
                where=store.name,
                expected=f"{_MOST_OBJECTS} objects at most, those of one export",
                found="more",
                fix="Name the export's own folder in `cost.exports.….prefix`",
            )
    aws = [key for key in objects if _AWS_MANIFEST.match(key)]
    azure = [key for key in objects if key.rpartition("/")[2] in ("manifest.json", "_manifest.json")]
    found = [_of_aws(store, key, objects, bucket, prefix) for key in aws]
    found += [_of_azure(store, key, objects) for key in azure]
    told = tuple(f"{match['root']}data/" for match in map(_AWS_MANIFEST.match, aws) if match)
    told += tuple(key.rpartition("/")[0] + "/" for key in azure)
    plain = [info for key, info in objects.items() if _is_data(key) and not (told and key.startswith(told))]
    found += _of_folders(plain)
    return _newest(found)


def _is_data(key: str) -> bool:
    return key.lower().endswith(_DATA) and not key.rpartition("/")[2].startswith(("_", "."))


def _manifest(store: ObjectStore, key: str, size: int) -> Mapping[str, Any]:
    where = f"{store.name}: {key}"
    if size > _MOST_MANIFEST_BYTES:
        raise BillDamaged("the manifest is too large", where=where, expected="8 MiB at most", found=f"{size} bytes")
    try:
        found = json.loads(store.get(key))
    except (ValueError, RecursionError) as error:
        found, why = None, str(error)
    else:
        why = type(found).__name__
    if not isinstance(found, dict):
        raise BillDamaged("the manifest cannot be read", where=where, expected="a JSON object", found=why)
    return found


def _of_aws(store: ObjectStore, key: str, objects: Mapping[str, ObjectInfo], bucket: str, prefix: str) -> Delivery:
    match = _AWS_MANIFEST.match(key)
    assert match is not None
    manifest = _manifest(store, key, objects[key].size_bytes)
    before = f"s3://{bucket}/{prefix.strip('/')}/".replace("//", "/").replace("s3:/", "s3://")
    named = manifest.get("dataFiles")
    keys = [str(one).removeprefix(before) for one in named] if isinstance(named, list) else []
    files, damage = _files(store, key, objects, [(one, None) for one in keys])
    told = next(
        (version for version in ("1.4", "1.3", "1.2", "1.1", "1.0") if version in str(manifest.get("table"))), None
    )
    if not isinstance(named, list):
        damage = BillDamaged("the manifest names no files", where=f"{store.name}: {key}", expected="`dataFiles`")
    return Delivery(
        match["root"] + match["part"],
        _part(match["part"]),
        files,
        objects[key].modified_at,
        told,
        damage=damage,
    )


def _part(text: str) -> Period | None:
    found = _AWS_PART.search(text)
    return None if found is None else _month(found[1], found[2])


def _month(year: str, month: str) -> Period | None:
    try:
        return month_of(datetime(int(year), int(month), 1, tzinfo=UTC))
    except ValueError:
        return None


def _of_azure(store: ObjectStore, key: str, objects: Mapping[str, ObjectInfo]) -> Delivery:
    manifest = _manifest(store, key, objects[key].size_bytes)
    folder = key.rpartition("/")[0] + "/"
    wanted: list[tuple[str, int | None]] = []
    blobs = manifest.get("blobs")
    for blob in blobs if isinstance(blobs, list) else ():
        # The name is relative to the container; the last part is unique in a run's folder.
        name = str(blob.get("blobName", "")) if isinstance(blob, dict) else ""
        rows = blob.get("dataRowCount") if isinstance(blob, dict) else None
        wanted.append((folder + name.rpartition("/")[2], rows if isinstance(rows, int) else None))
    files, damage = _files(store, key, objects, wanted)
    if not isinstance(blobs, list):
        damage = BillDamaged("the manifest names no files", where=f"{store.name}: {key}", expected="`blobs`")
    config = manifest.get("exportConfig")
    version = str(config.get("dataVersion", "")).removesuffix("-preview") if isinstance(config, dict) else ""
    span = _AZURE_RANGE.search(folder)
    period = _month(span[1], span[2]) if span else None
    root = folder[: span.end()] if span else folder.rstrip("/").rpartition("/")[0] + "/"
    return Delivery(root, period, files, objects[key].modified_at, version or None, damage=damage)


def _files(
    store: ObjectStore, manifest: str, objects: Mapping[str, ObjectInfo], wanted: Iterable[tuple[str, int | None]]
) -> tuple[tuple[BillFile, ...], BillDamaged | None]:
    found, missing = [], []
    for key, rows in dict(wanted).items():
        if key in objects:
            found.append(BillFile(key, objects[key].size_bytes, rows))
        else:
            missing.append(key)
    if not missing:
        return tuple(found), None
    return tuple(found), BillDamaged(
        "the manifest names files that are not there",
        where=f"{store.name}: {manifest}",
        expected=f"{len(found) + len(missing)} files",
        found=f"{len(found)}; missing {', '.join(missing[:3])}",
        fix="A delivery may be under way; have the cloud deliver the export again if it stays so",
    )


def _of_folders(objects: Sequence[ObjectInfo]) -> list[Delivery]:
    folders: dict[str, list[ObjectInfo]] = {}
    for info in objects:
        folders.setdefault(info.key.rpartition("/")[0], []).append(info)
    return [
        Delivery(
            folder,
            _part(folder),
            tuple(BillFile(info.key, info.size_bytes) for info in sorted(infos, key=lambda one: one.key)),
            max(info.modified_at for info in infos),
            by="folder",
        )
        for folder, infos in folders.items()
    ]


def _newest(found: Sequence[Delivery]) -> Deliveries:
    """Of the runs of one period the newest; folders are told apart by their lines, once those are read."""
    best: dict[tuple[str, Period | None], Delivery] = {}
    older: list[Delivery] = []
    for one in sorted(found, key=lambda each: (each.delivered_at, each.root)):
        replaced = best.get((one.root, one.period))
        if replaced is not None:
            older.append(replaced)
        best[one.root, one.period] = one
    return Deliveries(tuple(best.values()), tuple(older))
