"""Storage Insights inventory reports of Cloud Storage as a full reconcile without LISTs.

A report is shards in CSV or Parquet and a manifest that is written after them, side by side, named
``<configuration id>_<snapshot time>_<shard>`` and ``…_manifest.json``
(`Inventory reports <https://cloud.google.com/storage/docs/insights/inventory-reports>`_). It has no checksums of its
own; the number of its records and shards is checked against the manifest. It comes daily or weekly and names keys to
look at.
"""

from __future__ import annotations

import base64
import re
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.feeds import inventory
from holdfast.engine.replication.feeds.errors import FeedDamaged
from holdfast.engine.replication.feeds.gathered import ScopedFeed
from holdfast.engine.replication.feeds.interface import Changes, Scope
from holdfast.errors import ConfigError

_MANIFEST = re.compile(r"_(?P<at>\d{4}-\d{2}-\d{2}T\d{2}:\d{2})_manifest\.json$")
_NEEDED = {"name": "name", "size": "size", "updated": "updated", "generation": "generation", "bucket": "bucket"}
_TEXT = pa.large_string()


class _CsvOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    delimiter: str = ","
    header_required: bool = Field(False, alias="headerRequired")


class _MetadataOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    metadata_fields: tuple[str, ...] = Field((), alias="metadataFields")


class _Configuration(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    csv_options: _CsvOptions | None = Field(None, alias="csvOptions")
    metadata: _MetadataOptions = Field(_MetadataOptions(), alias="object_metadata_report_options")


class _Manifest(BaseModel):
    """The manifest, as far as it is needed."""

    model_config = ConfigDict(extra="ignore")

    report_config: _Configuration = _Configuration()
    records_processed: int
    snapshot_time: AwareDatetime
    shard_count: int
    report_shards_file_names: tuple[str, ...]


class GcsInsightsFeed(ScopedFeed):
    """The newest report under a prefix.

    Args:
        store: the bucket the reports are delivered to.
        bucket: its name, for messages.
        prefix: the reports' destination path in it, best with the configuration's id.
        scope: bucket, prefix and folder of the source that count.
    """

    def __init__(self, store: ObjectStore, bucket: str, prefix: str, scope: Scope) -> None:
        super().__init__(scope)
        self._store, self._bucket = store, bucket
        self._prefix = prefix.strip("/")

    @property
    def name(self) -> str:
        return f"gcs-insights://{self._bucket}/{self._prefix}"

    def poll(self, cursor: str | None, limit: int) -> Changes:  # noqa: ARG002  # a report is whole or nothing
        """The newest report, if it is newer than the cursor; all of it at once."""
        newest = self._newest()
        if newest is None or (cursor is not None and newest[0] <= cursor):
            return Changes((), cursor or "", complete=True)
        at, key = newest
        manifest = self._manifest(key)
        folder = key.rpartition("/")[0]
        parts = [self._shard(folder, name, manifest) for name in manifest.report_shards_file_names]
        rows = sum(part.num_rows for part in parts)
        if rows != manifest.records_processed or len(parts) != manifest.shard_count:
            raise FeedDamaged(
                "the report is not whole",
                where=f"{self._store.name}: {key}",
                expected=f"{manifest.records_processed} records in {manifest.shard_count} shards",
                found=f"{rows} in {len(parts)}",
                fix="Wait for the next report, or list in full",
            )
        listing = inventory.to_listing([self._current(part) for part in parts], self._scope, key)
        return Changes((), at, complete=True, listing=listing, as_of=manifest.snapshot_time)

    def _newest(self) -> tuple[str, str] | None:
        """Snapshot time and key of the newest manifest."""
        found = (
            (match["at"], info.key)
            for info in self._store.list(self._prefix)
            if (match := _MANIFEST.search(info.key)) is not None
        )
        return max(found, default=None)

    def _manifest(self, key: str) -> _Manifest:
        where = f"{self._store.name}: {key}"
        data = inventory.read_file(self._store, inventory.DataFile(key))
        try:
            return _Manifest.model_validate_json(data)
        except ValidationError as error:
            raise FeedDamaged("the report's manifest cannot be read", where=where, found=str(error)[:300]) from None

    def _shard(self, folder: str, name: str, manifest: _Manifest) -> pa.Table:
        # A name, or in older reports a whole gs:// URI; the shards lie beside their manifest.
        key = f"{folder}/{name.rpartition('/')[2]}".lstrip("/")
        where = f"{self._store.name}: {key}"
        data = inventory.read_file(self._store, inventory.DataFile(key))
        table = inventory.parsed(_reader(key, manifest, where), data, where)
        inventory.require(table, _NEEDED, where)
        return table

    def _current(self, table: pa.Table) -> pa.Table:
        """The live objects of the source, in the columns of a listing, with the bucket's own keys."""
        table = table.filter(pc.equal(inventory.text(table["bucket"]), self._scope.bucket))
        if "timeDeleted" in table.column_names:  # a generation that is not the live one
            table = table.filter(pc.is_null(table["timeDeleted"]))
        return pa.table(
            {
                "key": inventory.text(table["name"]),
                "size_bytes": table["size"].cast(pa.int64()),
                "modified_at": inventory.times(table["updated"]),
                "e_tag": _e_tags(table),
                "version": inventory.text(table["generation"]),
            }
        )


def _reader(key: str, manifest: _Manifest, where: str) -> Any:
    if key.endswith(".parquet"):
        return inventory.read_parquet
    if not key.endswith(".csv"):
        raise FeedDamaged("the shard's format is not known", where=where, expected=".csv or .parquet", found=key)
    options = manifest.report_config.csv_options or _CsvOptions()
    if options.header_required:
        return partial(inventory.read_csv, form=inventory.CsvForm(None, options.delimiter))
    columns = manifest.report_config.metadata.metadata_fields
    if not columns:
        raise ConfigError(
            "the report's CSV has no header line and its manifest does not name the columns",
            where=where,
            fix="Turn the header on in the report's configuration, or take Parquet",
        )
    return partial(inventory.read_csv, form=inventory.CsvForm(columns, options.delimiter))


def _e_tags(table: pa.Table) -> pa.ChunkedArray:
    """ETags as the XML API's listings show them: the quoted MD5 in hex; none for a composite object."""
    if "md5Hash" not in table.column_names:
        return pa.nulls(table.num_rows, _TEXT)
    hashes = inventory.text(table["md5Hash"]).to_pylist()
    return pa.array([f'"{base64.b64decode(one).hex()}"' if one else None for one in hashes], _TEXT)
