"""S3 Inventory as a full reconcile without LISTs.

A report is a manifest with its MD5 and data files in Parquet, ORC or CSV
(`Locating your inventory list <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html>`_).
It comes daily or weekly and is hours old: objects written or removed lately may be missing from it or still in it. So
it names keys to look at; `apply_changes` asks for those that differ from what is known.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.feeds import inventory
from holdfast.engine.replication.feeds.errors import FeedDamaged
from holdfast.engine.replication.feeds.gathered import ScopedFeed
from holdfast.engine.replication.feeds.interface import Changes, Scope
from holdfast.errors import ConfigError

_FOLDER = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}-\d{2}Z$")
_NEEDED = {"key": "Key", "size": "Size", "last_modified_date": "LastModifiedDate", "e_tag": "ETag"}
#: CSV names columns as the console does, Parquet and ORC in snake case.
_CSV_NAMES = {"LastModifiedDate": "last_modified_date", "ETag": "e_tag"}


class _File(BaseModel):
    key: str
    size: int | None = None
    md5: str = Field(alias="MD5checksum")


class _Manifest(BaseModel):
    """``manifest.json``."""

    model_config = ConfigDict(extra="ignore")

    source_bucket: str = Field(alias="sourceBucket")
    creation_ms: int = Field(alias="creationTimestamp")
    file_format: str = Field(alias="fileFormat")
    file_schema: str = Field(alias="fileSchema")
    files: list[_File]


class S3InventoryFeed(ScopedFeed):
    """The newest report under a prefix.

    Args:
        store: the bucket the reports are delivered to.
        bucket: its name, for messages.
        prefix: ``<destination prefix>/<source bucket>/<configuration id>`` in it.
        scope: bucket, prefix and folder of the source that count.
    """

    def __init__(self, store: ObjectStore, bucket: str, prefix: str, scope: Scope) -> None:
        super().__init__(scope)
        self._store, self._bucket = store, bucket
        self._prefix = prefix.strip("/")

    @property
    def name(self) -> str:
        return f"s3-inventory://{self._bucket}/{self._prefix}"

    def poll(self, cursor: str | None, limit: int) -> Changes:  # noqa: ARG002  # a report is whole or nothing
        """The newest report, if it is newer than the cursor; all of it at once."""
        newest = self._newest(cursor)
        if newest is None:
            return Changes((), cursor or "", complete=True)
        manifest = self._manifest(newest)
        parts = [self._part(file, manifest) for file in manifest.files]
        listing = inventory.to_listing(parts, self._scope, f"{self.name}: {newest}")
        as_of = datetime.fromtimestamp(manifest.creation_ms / 1000, UTC)
        return Changes((), newest, complete=True, listing=listing, as_of=as_of)

    def _newest(self, cursor: str | None) -> str | None:
        """The newest dated folder that is whole. Reports are never rewritten, so what the cursor names is known."""
        root = f"{self._prefix}/" if self._prefix else ""
        whole: dict[str, set[str]] = {}
        after = f"{root}{cursor}/~" if cursor else None
        for info in self._store.list(root, start_after=after):
            folder, _, name = info.key.removeprefix(root).partition("/")
            if folder > ":":  # past the digits: the data files of all reports
                break
            if _FOLDER.match(folder):
                whole.setdefault(folder, set()).add(name)
        found = [folder for folder, names in whole.items() if {"manifest.json", "manifest.checksum"} <= names]
        return max(found, default=None)

    def _manifest(self, folder: str) -> _Manifest:
        key = f"{self._prefix}/{folder}/manifest.json".lstrip("/")
        where = f"{self._store.name}: {key}"
        try:
            data = self._store.get(key)
            checksum = self._store.get(key.removesuffix("json") + "checksum").decode("ascii", "replace").strip()
        except ObjectNotFound as error:
            raise FeedDamaged("the inventory's manifest is not there", where=where, found=str(error)) from None
        if (found := inventory.md5_of(data)) != checksum.lower():
            raise FeedDamaged(
                "the inventory's manifest is not the one its checksum names",
                where=where,
                expected=f"MD5 {checksum[:64]}",
                found=found,
                fix="Wait for the next report, or list in full",
            )
        try:
            manifest = _Manifest.model_validate_json(data)
        except ValidationError as error:
            raise FeedDamaged("the inventory's manifest cannot be read", where=where, found=str(error)[:200]) from None
        if manifest.source_bucket != self._scope.bucket:
            raise ConfigError(
                "the inventory is of another bucket",
                where=where,
                expected=self._scope.bucket,
                found=manifest.source_bucket,
                fix="Name the prefix of this bucket's reports: <destination prefix>/<bucket>/<configuration id>",
            )
        return manifest

    def _part(self, file: _File, manifest: _Manifest) -> pa.Table:
        where = f"{self._store.name}: {file.key}"
        data = inventory.read_file(self._store, inventory.DataFile(file.key, file.size, file.md5))
        table = inventory.parsed(_reader(manifest, where), data, where)
        inventory.require(table, _NEEDED, where)
        return _current(table, encoded=manifest.file_format == "CSV")


def _reader(manifest: _Manifest, where: str) -> Any:
    if manifest.file_format == "Parquet":
        return inventory.read_parquet
    if manifest.file_format == "ORC":
        return inventory.read_orc
    if manifest.file_format == "CSV":
        columns = tuple(_snake(name.strip()) for name in manifest.file_schema.split(","))
        return partial(inventory.read_csv, form=inventory.CsvForm(columns, gzip=True))
    raise FeedDamaged("the inventory's format is not known", where=where, found=manifest.file_format)


def _snake(name: str) -> str:
    return _CSV_NAMES.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _current(table: pa.Table, *, encoded: bool) -> pa.Table:
    """The current object of each key, in the columns of a listing, with the bucket's own keys."""
    if "is_latest" in table.column_names:
        table = table.filter(pc.fill_null(inventory.flags(table["is_latest"]), True))
    if "is_delete_marker" in table.column_names:
        table = table.filter(pc.invert(pc.fill_null(inventory.flags(table["is_delete_marker"]), False)))
    keys, tags = inventory.text(table["key"]), inventory.text(table["e_tag"])
    quote, nothing = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
    return pa.table(
        {
            "key": inventory.decoded(keys) if encoded else keys,
            "size_bytes": table["size"].cast(pa.int64()),
            "modified_at": inventory.times(table["last_modified_date"]),
            "e_tag": pc.binary_join_element_wise(quote, tags, quote, nothing),
            # A listing of S3 names no versions either.
            "version": pa.nulls(table.num_rows, pa.large_string()),
        }
    )
