"""Everything of datasets, models and runs that lies in one site's bucket, and what lies there and nobody names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from holdfast.engine.audit.privacy.keys import folder_of
from holdfast.engine.audit.residency.judging import Found
from holdfast.engine.audit.residency.report import CopyKind
from holdfast.engine.checkpoint.format import parse_manifest_key
from holdfast.engine.config import Topology
from holdfast.engine.config.references import TAKEN
from holdfast.engine.drill.reference import job_of_reference
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.pages import list_pages
from holdfast.engine.policy import COPY_CHECKPOINTS, PROMOTE, REPLICATE, RESUME, Kind
from holdfast.engine.recovery.subjects import base_run, job_of_run
from holdfast.engine.snapshot import Manifest, keys, load_manifest, read_receipt
from holdfast.engine.snapshot.placement import locate_table
from holdfast.engine.snapshot.records import CommitRecord, records
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")
#: Told of what could not be read: a subject and why.
Unread = Callable[[str, str], None]


@dataclass(frozen=True)
class _Folder:
    """A folder under ``data/`` and whose it is."""

    path: str
    subject: str
    named: list[pa.ChunkedArray] = field(default_factory=list)


class SiteWalk:
    """One site's bucket.

    Args:
        topology: what is known of its content.
        site: which one.
        store: its bucket.
        unread: told of what could not be read; the walk goes on.
        manifests: by snapshot, shared between sites: their bytes are equal everywhere.
    """

    def __init__(
        self,
        topology: Topology,
        site: str,
        store: ObjectStore,
        unread: Unread,
        manifests: dict[str, Manifest],
    ) -> None:
        self._topology, self._site, self._store = topology, site, store
        self._unread, self._manifests = unread, manifests
        self._folders = {d.path: _Folder(d.path, name) for name, d in topology.datasets.items()}

    def walk(self) -> Iterator[Found]:
        """All of it; a part that cannot be listed does not keep the others from being looked at."""
        # Listed before the commit records are read: what is committed meanwhile is not taken for a stray.
        data = self._parts("data/", lambda: _listed(self._store, "data/"))
        for subject in self._names_below("snapshots/"):
            yield from self._snapshots(subject)
        yield from self._strays(data)
        for run in self._names_below("runs/"):
            yield from self._parts(f"run {run}", partial(self._run, run))
        yield from self._parts("other folders", self._others)

    def _parts(self, what: str, read: Callable[[], Iterator[_T]]) -> list[_T]:
        found: list[_T] = []
        try:
            for one in read():
                found.append(one)  # noqa: PERF402 - what came before an error counts
        except HoldfastError as error:
            self._unread(what, str(error))
        return found

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _names_below(self, prefix: str) -> list[str]:
        return [name for name, is_folder in self._parts(prefix, lambda: _entries(self._store, prefix)) if is_folder]

    def _snapshots(self, subject: str) -> Iterator[Found]:
        try:
            found = records(self._store, subject)
        except HoldfastError as error:
            self._unread(f"snapshots of {subject}", str(error))
            return
        for record in found:
            yield self._snapshot(subject, record)

    def _snapshot(self, subject: str, record: CommitRecord) -> Found:
        # The first whose folder it is: what another's snapshot says of it does not make it another's.
        folder = self._folders.setdefault(record.path, _Folder(record.path, subject))
        arrived: datetime | None = record.committed_at
        source = None
        try:
            manifest = self._manifests.get(record.snapshot_id)
            if manifest is None:
                manifest = self._manifests[record.snapshot_id] = load_manifest(self._store, record)
            if folder.subject == subject:
                folder.named.append(locate_table(self._store, record, manifest)["key"])
            if record.site != self._site:
                source = record.site
                receipt = read_receipt(self._store, subject, record.snapshot_id, self._site)
                arrived = receipt.verified_at if receipt is not None else None
        except HoldfastError as error:
            self._unread(f"snapshot {record.snapshot_id} of {subject}", str(error))
        return Found(
            CopyKind.SNAPSHOT,
            subject,
            record.snapshot_id,
            self._site,
            subject,
            PROMOTE if source is None else REPLICATE,
            record.size_bytes,
            record.object_count,
            source,
            arrived,
        )

    # -- strays --------------------------------------------------------------------------------------------------------

    def _strays(self, data: list[pa.Table]) -> Iterator[Found]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not data:
            return
        listed = pa.concat_tables(data)
        # The longest path first: a folder inside another's is its own.
        for path in sorted(self._folders, key=len, reverse=True):
            folder = self._folders[path]
            inside = pc.starts_with(listed["key"], f"{keys.data_folder(path)}/")
            mine, listed = listed.filter(inside), listed.filter(pc.invert(inside))
            if folder.named:
                named = pa.chunked_array(
                    [chunk.cast(pa.large_string()) for keys_of in folder.named for chunk in _chunks(keys_of)]
                )
                mine = mine.filter(pc.invert(pc.is_in(mine["key"], value_set=named)))
            if mine.num_rows:
                yield self._stray(folder.subject, f"data/{path}", mine, data=folder.subject)
        tops = pc.list_element(pc.split_pattern(listed["key"], "/", max_splits=2), 1) if listed.num_rows else None
        for top in pc.unique(tops).to_pylist() if tops is not None else ():
            yield self._stray(f"data/{top}", f"data/{top}", listed.filter(pc.equal(tops, top)), data=None)

    def _stray(self, subject: str, where: str, objects: pa.Table, *, data: str | None) -> Found:
        import pyarrow.compute as pc

        first = objects["key"][0].as_py()
        what = f"{objects.num_rows} objects under {where} that no snapshot here names, e.g. {first}"
        size_bytes = int(pc.sum(objects["size_bytes"]).as_py() or 0)
        return Found(CopyKind.STRAY, subject, what, self._site, data, PROMOTE, size_bytes, objects.num_rows)

    def _others(self) -> Iterator[Found]:
        """What lies beside what Holdfast knows: left by a restore to a prefix, of a vault that was, or put there."""
        recovery, audit = self._topology.airflow.recovery, self._topology.audit
        known = {*TAKEN, "runs"} - {"restore-drills"}
        known |= {one.prefix.partition("/")[0] for one in (recovery, audit) if one is not None}
        if audit is not None and audit.privacy is not None:
            known.add(folder_of(audit).partition("/")[0])
        vaults = self._vaults()
        known |= {prefix.partition("/")[0] for prefix in vaults}
        for name, is_folder in _entries(self._store, ""):
            if not (is_folder and name in known):
                yield self._nobodys(name, is_folder)
        for name, is_folder in _entries(self._store, "vault/"):
            path = f"vault/{name}"
            if not any(one == path or one.startswith(f"{path}/") for one in vaults):
                yield self._nobodys(path, is_folder)
        for name, is_folder in _entries(self._store, "runs/"):
            if not is_folder:
                yield self._nobodys(f"runs/{name}", is_folder)

    def _vaults(self) -> set[str]:
        """Where vaults lie at this site by the topology of today."""
        vaults = self._topology.vaults.items()
        return {vault.prefix or f"vault/{name}" for name, vault in vaults if self._site in vault.places}

    def _nobodys(self, path: str, is_folder: bool) -> Found:
        listed = self._store.list(f"{path}/" if is_folder else path)
        sizes = [info.size_bytes for info in listed if is_folder or info.key == path]
        what = f"{len(sizes)} objects that nothing of the topology names"
        return Found(CopyKind.STRAY, path, what, self._site, None, PROMOTE, sum(sizes), len(sizes))

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, run: str) -> Iterator[Found]:
        checkpoints = size_bytes = objects = 0
        for info in self._store.list(f"runs/{run}/"):
            size_bytes, objects = size_bytes + info.size_bytes, objects + 1
            checkpoints += parse_manifest_key(info.key) is not None
        owner = dataset_of_run(self._topology, run)
        base, data = owner if owner is not None else (run, None)
        trained_here = next(iter(self._store.list(f"receipts/{run}/")), None) is None
        yield Found(
            CopyKind.RUN,
            run,
            f"{checkpoints} checkpoints",
            self._site,
            data,
            RESUME if trained_here else COPY_CHECKPOINTS,
            size_bytes,
            objects,
            kinds=(Kind.CHECKPOINT, Kind.DATASET) if trained_here else (Kind.CHECKPOINT,),
            names=tuple(dict.fromkeys((run, base, *((data,) if trained_here and data is not None else ())))),
        )


def dataset_of_run(topology: Topology, run: str) -> tuple[str, str] | None:
    """A run's job's first run, and the dataset it is trained on; ``None``: of no job of the topology.

    The reference run of a drill is one of its job, bound by the same data.
    """
    if (owner := job_of_run(topology, run)) is not None:
        return base_run(*owner), topology.job(owner[1]).dataset
    job = job_of_reference(topology, run)
    return None if job is None else (run, topology.job(job).dataset)


def _listed(store: ObjectStore, prefix: str) -> Iterator[pa.Table]:
    for page in list_pages(store, prefix):
        if page.objects.num_rows:
            yield page.objects.select(["key", "size_bytes"])


def _entries(store: ObjectStore, prefix: str) -> Iterator[tuple[str, bool]]:
    """The names directly below a prefix, and which are folders: one request each, the listing begins anew after it."""
    after: str | None = None
    while (info := next(iter(store.list(prefix, start_after=after)), None)) is not None:
        name, slash, _ = info.key.removeprefix(prefix).partition("/")
        yield name, bool(slash)
        # "0" is the character after "/": everything in the folder sorts before it.
        after = f"{prefix}{name}0" if slash else info.key


def _chunks(column: pa.ChunkedArray | pa.Array) -> Iterator[pa.Array]:
    yield from getattr(column, "chunks", [column])
