"""Where a dataset's objects, snapshots, forks and receipts lie in a site's bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.errors import ConfigError

#: Under a dataset's folder: bytes whose own key was taken by other bytes. Never part of a snapshot by listing.
VERSIONS = ".versions"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_RECORD = re.compile(r"^(?P<time>\d{8}T\d{6}\.\d{6}Z)-(?P<epoch>\d{6,})-(?P<id>[0-9a-f]{32})\.json$")
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,126}$")


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """What the key of a commit record says, without reading it. Sorts by commit time."""

    committed_at: datetime
    epoch: int
    snapshot_id: str
    key: str


def check_name(dataset: str) -> str:
    """The dataset's name if it can stand in a key. Raises ConfigError."""
    if not _NAME.match(dataset) or ".." in dataset:
        raise ConfigError(
            "a dataset's name cannot stand in a key",
            where="dataset",
            expected="lower-case letters, digits, `-`, `_` and `.`",
            found=repr(dataset),
        )
    return dataset


def root(dataset: str) -> str:
    """The folder of a dataset's snapshots; its fork records lie in ``epochs/`` under it."""
    return f"snapshots/{check_name(dataset)}"


def data_folder(path: str) -> str:
    return f"data/{path}"


def object_key(path: str, relative: str) -> str:
    return f"data/{path}/{relative}"


def version_key(path: str, relative: str, digest: str) -> str:
    """Where bytes land whose own key is taken: the digest in the key says what they are."""
    return f"data/{path}/{VERSIONS}/{digest.partition(':')[2][:16]}/{relative}"


def manifest_key(dataset: str, snapshot_id: str) -> str:
    return f"{root(dataset)}/{snapshot_id}/manifest.parquet"


def line_key(dataset: str, snapshot_id: str) -> str:
    return f"{root(dataset)}/{snapshot_id}/line.json"


def placement_prefix(dataset: str, snapshot_id: str) -> str:
    return f"{root(dataset)}/{snapshot_id}/placement-"


def placement_key(dataset: str, snapshot_id: str, site: str) -> str:
    return f"{placement_prefix(dataset, snapshot_id)}{site}.parquet"


def record_key(dataset: str, committed_at: datetime, epoch: int, snapshot_id: str) -> str:
    return f"{root(dataset)}/{committed_at.astimezone(UTC).strftime(_TIME)}-{epoch:06d}-{snapshot_id}.json"


def receipt_key(subject: str, item: str, site: str) -> str:
    return f"receipts/{check_name(subject)}/{item}/{site}.json"


def parse_record_key(dataset: str, key: str) -> RecordKey | None:
    """What a commit record's key says, ``None`` when the key is of something else."""
    match = _RECORD.match(key.removeprefix(root(dataset) + "/"))
    if match is None:
        return None
    try:
        committed_at = datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return RecordKey(committed_at, int(match["epoch"]), match["id"], key)
