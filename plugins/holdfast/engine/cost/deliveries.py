"""Which files of an export make up a billing period now: the newest delivery's, and nothing twice.

AWS Data Exports writes a ``…-Manifest.json`` per billing period once all its files are there; Azure a ``manifest.json``
per run with the rows of each file. Files beside no manifest (BigQuery's, or copied by hand) count by their folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
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
        damage: why it cannot be read, where that is known already.
    """

    root: str
    period: Period | None
    files: tuple[BillFile, ...]
    delivered_at: datetime
    version: str | None = None
    damage: BillDamaged | None = None


@dataclass(frozen=True)
class Deliveries:
    """What is to be read, and what older ones were left out for it."""

    current: tuple[Delivery, ...]
    superseded: tuple[Delivery, ...]


def find_deliveries(store: ObjectStore, *, bucket: str, prefix: str, periods: Collection[Period]) -> Deliveries:
    """The deliveries of one export. Of several runs of a period only the newest one's manifest is read.

    Args:
        store: the export's folder; keys are relative to it.
        bucket, prefix: of the folder, as manifests name them.
        periods: others are left out where the key says which it is.

    Raises:
        BillDamaged: there are more objects than any export has.
        ObjectStoreError: the store cannot be listed or read.
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
    runs = [run for run in map(_run_of, objects) if run is not None]
    beside = tuple({run.data for run in runs})
    plain = [info for key, info in objects.items() if _is_data(key) and not (beside and key.startswith(beside))]
    wanted = [run for run in runs if run.period is None or run.period in periods]
    newest: dict[tuple[str, Period | None], _Run] = {}
    older = []
    for run in sorted(wanted, key=lambda one: (objects[one.key].modified_at, one.key)):
        replaced = newest.get((run.root, run.period))
        if replaced is not None:
            older.append(Delivery(replaced.root, replaced.period, (), objects[replaced.key].modified_at))
        newest[run.root, run.period] = run
    folders = [one for one in _of_folders(plain) if one.period is None or one.period in periods]
    current = [_delivered(store, run, objects, bucket, prefix) for run in newest.values()]
    return Deliveries((*current, *folders), tuple(older))


@dataclass(frozen=True, slots=True)
class _Run:
    """One manifest.

    Args:
        data: below it lie the files of this run's kind, and no others.
    """

    key: str
    cloud: str
    root: str
    period: Period | None
    data: str


def _run_of(key: str) -> _Run | None:
    aws = _AWS_MANIFEST.match(key)
    if aws is not None:
        return _Run(key, "aws", aws["root"] + aws["part"], _part(aws["part"]), f"{aws['root']}data/")
    folder, _, name = key.rpartition("/")
    if name not in ("manifest.json", "_manifest.json"):
        return None
    folder = f"{folder}/" if folder else ""
    span = _AZURE_RANGE.search(folder)
    root = folder[: span.end()] if span else folder.rstrip("/").rpartition("/")[0]
    return _Run(key, "azure", root, _month(span[1], span[2]) if span else None, folder)


def _delivered(store: ObjectStore, run: _Run, objects: Mapping[str, ObjectInfo], bucket: str, prefix: str) -> Delivery:
    at = objects[run.key].modified_at
    try:
        manifest = _manifest(store, run.key, objects[run.key].size_bytes)
        if run.cloud == "aws":
            wanted, version = _of_aws(manifest, bucket, prefix), None
        else:
            wanted, version = _of_azure(manifest, run.data)
        if wanted is None:
            raise BillDamaged(
                "the manifest names no files", where=f"{store.name}: {run.key}", expected="`dataFiles` or `blobs`"
            )
        files = _files(store, run.key, objects, wanted)
    except BillDamaged as error:
        return Delivery(run.root, run.period, (), at, damage=error)
    return Delivery(run.root, run.period, files, at, version)


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


_Wanted = list[tuple[str, int | None]]


def _of_aws(manifest: Mapping[str, Any], bucket: str, prefix: str) -> _Wanted | None:
    named = manifest.get("dataFiles")
    if not isinstance(named, list):
        return None
    folder = f"{bucket}/{prefix.strip('/')}".rstrip("/")
    return [(str(one).removeprefix(f"s3://{folder}/"), None) for one in named]


def _part(text: str) -> Period | None:
    found = _AWS_PART.search(text)
    return None if found is None else _month(found[1], found[2])


def _month(year: str, month: str) -> Period | None:
    try:
        return month_of(datetime(int(year), int(month), 1, tzinfo=UTC))
    except ValueError:
        return None


def _of_azure(manifest: Mapping[str, Any], folder: str) -> tuple[_Wanted | None, str | None]:
    """The files of a run with their rows, and the version of FOCUS they are of."""
    blobs = manifest.get("blobs")
    if not isinstance(blobs, list) or not all(isinstance(blob, dict) for blob in blobs):
        return None, None
    wanted: _Wanted = []
    for blob in blobs:
        # The name is relative to the container; the last part is unique in a run's folder.
        rows = blob.get("dataRowCount")
        name = str(blob.get("blobName", "")).rpartition("/")[2]
        wanted.append((folder + name, rows if isinstance(rows, int) else None))
    config = manifest.get("exportConfig")
    version = str(config.get("dataVersion", "")).removesuffix("-preview") if isinstance(config, dict) else ""
    return wanted, version or None


def _files(
    store: ObjectStore, manifest: str, objects: Mapping[str, ObjectInfo], wanted: _Wanted
) -> tuple[BillFile, ...]:
    """Raises BillDamaged when one of them is not there."""
    missing = [key for key, _ in wanted if key not in objects]
    if missing:
        raise BillDamaged(
            "the manifest names files that are not there",
            where=f"{store.name}: {manifest}",
            expected=f"{len(wanted)} files",
            found=f"{len(wanted) - len(missing)}; missing {', '.join(missing[:3])}",
            fix="A delivery may be under way; have the cloud deliver the export again if it stays so",
        )
    return tuple(BillFile(key, objects[key].size_bytes, rows) for key, rows in dict(wanted).items())


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
        )
        for folder, infos in folders.items()
    ]
