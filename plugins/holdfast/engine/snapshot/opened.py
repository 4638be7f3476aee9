"""An open snapshot: its bytes whole, in ranges, as a listing, as an Arrow dataset, as a read-only file system.

Everything goes by the manifest that was open when it began, so a reader sees one snapshot throughout, whatever is
published or overwritten meanwhile: it gets the snapshot's bytes or an error, never others.

Where an object was overwritten at its key, its bytes may still be had: by the version id the placement names (in a
bucket that keeps versions), or under ``.versions/``, where a rollback keeps what it takes out of the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError, PreconditionFailed, StoreUnavailable
from holdfast.engine.objectstore.interface import ByteRange, ObjectStore, ObjectVersion
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of, hash_stream
from holdfast.engine.snapshot.errors import NotInSnapshot, ObjectDamaged, ObjectOverwritten
from holdfast.engine.snapshot.manifest import Manifest, ManifestEntry
from holdfast.engine.snapshot.placement import Placed
from holdfast.engine.snapshot.records import CommitRecord

if TYPE_CHECKING:
    import pyarrow.dataset as pads

#: One look for an object's bytes: a key, and what to pin the read to (nothing: whatever lies there).
_Candidate = tuple[str, ObjectVersion | None]


@dataclass(frozen=True)
class OpenSnapshot:
    """A snapshot's manifest and where its bytes lie here: read once, then as many objects as wanted."""

    store: ObjectStore
    record: CommitRecord
    manifest: Manifest
    placed: Mapping[str, Placed]
    #: Keys and versions whose whole content was hashed through this object and was right.
    _checked: dict[str, _Candidate] = field(default_factory=dict, repr=False, compare=False)

    def read(self, path: str) -> bytes:
        """One object's bytes, whole and checked against the manifest's digest.

        Raises:
            NotInSnapshot: the snapshot has no such path.
            ObjectOverwritten: somebody overwrote or removed it since the snapshot.
            ObjectDamaged: its bytes are wrong though its version is the same.
        """
        entry = self.manifest.entry(path)
        found: list[str] = []
        for key, pin in self._candidates(entry):
            try:
                data = self.store.get(key, if_match=pin)
            except StoreUnavailable:
                raise
            except ObjectStoreError as error:
                if pin is None and not isinstance(error, ObjectNotFound):
                    raise
                continue
            if (digest := digest_of(data)) == entry.digest:
                return data
            found.append(digest)
        raise self._gone(entry, found)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``start`` (inclusive) to ``end`` (exclusive) of one object, cut at its end as a slice is.

        A range cannot be checked against the digest of the whole. What is: the read is pinned to the version the
        placement names, which was hashed whole when the snapshot was taken here or replicated here; so the range is
        of the right bytes as far as the store keeps a version as it was. What is not: bits that rotted in the store
        since. `check` hashes the whole object first; from then on its ranges are pinned to what was hashed.

        Where the store has nothing to pin to, the object is read whole and checked.

        Raises: as `read`.
        """
        entry = self.manifest.entry(path)
        end = min(end, entry.size_bytes)
        if start >= end:
            return b""
        key, pin = self._checked.get(path) or self._placed_pin(entry) or self._find(entry)
        if pin is None:
            return self.read(path)[start:end]
        wanted = ByteRange(start, end)
        try:
            data = self.store.get(key, byte_range=wanted, if_match=pin)
        except (ObjectNotFound, PreconditionFailed):
            key, pin = self._find(entry)
            if pin is None:
                return self.read(path)[start:end]
            data = self.store.get(key, byte_range=wanted, if_match=pin)
        if len(data) != end - start:
            raise self._gone(entry, [f"{len(data)} of {end - start} bytes"])
        return data

    def check(self, path: str) -> None:
        """Hash one object whole, in bounded memory; its ranges are pinned to what was hashed. Raises: as `read`."""
        if path not in self._checked:
            self._find(self.manifest.entry(path))

    def listing(self) -> pa.Table:
        """The snapshot's objects in path order: ``path, size_bytes, digest, modified_at`` and ``key``, where each
        one's bytes lie in this bucket."""
        table = self.manifest.table.select(["path", "size_bytes", "digest", "modified_at"])
        keys_here = [self._key(path) for path in self.manifest.paths]
        return table.append_column(pa.field("key", pa.string(), nullable=False), pa.array(keys_here, pa.string()))

    def filesystem(self, *, verify: bool = False) -> Any:
        """A read-only `fsspec.AbstractFileSystem` of this snapshot; its root is the dataset's folder.

        Objects up to 8 MiB, and bigger ones read in one piece, are checked against the manifest's digest. Ranges of
        bigger ones are pinned, see `read_range`. It cannot be sent to another process.

        Args:
            verify: hash every bigger object whole, once, before its first range is given out.

        Raises:
            ConfigError: fsspec is not installed; it comes with ``holdfast[airflow]``.
        """
        from holdfast.engine.snapshot.filesystem import snapshot_filesystem

        return snapshot_filesystem(self, verify=verify)

    def dataset(
        self, paths: Iterable[str] | None = None, *, partitioning: Any = None, verify: bool = False
    ) -> pads.Dataset:
        """The snapshot's Parquet objects as one `pyarrow.dataset.Dataset`, read lazily through `filesystem`.

        Args:
            paths: which objects; by default those that end in ``.parquet``, and of a Delta or Iceberg table those
                its newest version names.
            partitioning: as pyarrow takes it, e.g. ``"hive"``.
            verify: as in `filesystem`.

        Raises:
            NotInSnapshot: there is no such object.
            ConfigError: fsspec is not installed.
        """
        import pyarrow.dataset as pads

        chosen = sorted(paths) if paths is not None else self._parquet_paths()
        missing = set(chosen) - set(self.manifest.paths)
        if missing or not chosen:
            raise NotInSnapshot(
                "the snapshot has no such Parquet object",
                where=f"{self.store.name}: {self.record.dataset} {self.record.snapshot_id}",
                expected=", ".join(sorted(missing)[:5]) or "paths that end in .parquet",
                found=f"{self.manifest.object_count} others",
            )
        return pads.dataset(
            chosen, filesystem=self.filesystem(verify=verify), format="parquet", partitioning=partitioning
        )

    # -- where the bytes are ---------------------------------------------------------------------------------------

    def _parquet_paths(self) -> list[str]:
        from holdfast.engine.snapshot.tables import live_data

        paths = self.manifest.paths
        named = live_data(paths, self.read)
        return sorted(path for path in (paths if named is None else named) if path.endswith(".parquet"))

    def _key(self, path: str) -> str:
        place = self.placed.get(path)
        return place.key if place is not None and place.key is not None else keys.object_key(self.record.path, path)

    def _candidates(self, entry: ManifestEntry) -> Iterator[_Candidate]:
        """Where the bytes may be, best first. Each is checked by digest."""
        key = self._key(entry.path)
        yield key, None
        place = self.placed.get(entry.path)
        if place is not None and place.version is not None and self.store.capabilities().versions is not False:
            yield key, ObjectVersion(None, place.version)
        spare = keys.version_key(self.record.path, entry.path, entry.digest)
        if spare != key:
            yield spare, None

    def _placed_pin(self, entry: ManifestEntry) -> _Candidate | None:
        place = self.placed.get(entry.path)
        pin = place.object_version if place is not None else None
        if pin is None or self.store.capabilities().pinned_reads is not True:
            return None
        return self._key(entry.path), pin

    def _find(self, entry: ManifestEntry) -> _Candidate:
        """A key and version whose bytes are the snapshot's, found by hashing."""
        found: list[str] = []
        for key, pin in self._candidates(entry):
            try:
                reader = self.store.open(key, if_match=pin)
                digest = hash_stream(reader).digest
            except StoreUnavailable:
                raise
            except ObjectStoreError as error:
                if pin is None and not isinstance(error, ObjectNotFound | PreconditionFailed):
                    raise
                continue
            if digest == entry.digest:
                version = pin or reader.info.version
                nothing = version.e_tag is None and version.version is None
                pins = self.store.capabilities().pinned_reads is True
                self._checked[entry.path] = (key, None if nothing or not pins else version)
                return self._checked[entry.path]
            found.append(digest)
        raise self._gone(entry, found)

    def _gone(self, entry: ManifestEntry, found: list[str]) -> ObjectDamaged:
        key = self._key(entry.path)
        place = self.placed.get(entry.path)
        where = f"{self.store.name}: {key}"
        expected, seen = entry.digest, found[0] if found else "nothing"
        overwritten = not found
        if found and place is not None and place.object_version is not None:
            try:
                now = self.store.head(key).version
            except ObjectNotFound:
                now = ObjectVersion(None)
            overwritten = now != place.object_version
        if overwritten:
            return ObjectOverwritten(
                "the object was overwritten or removed after the snapshot was taken",
                where=where,
                expected=expected,
                found=seen,
                fix="Use a newer snapshot, or read this one at a site that has a replica of it",
            )
        return ObjectDamaged(
            "the object's bytes are not the snapshot's",
            where=where,
            expected=expected,
            found=seen,
            fix="Read it at another site that has this snapshot, and have this store checked",
        )
