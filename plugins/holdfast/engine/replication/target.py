"""One target of a sync: may it be written, what has it already, what landed, and its own publication at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.clock import Clock
from holdfast.engine.config import Cloud, Residency, Site
from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore.attribute_mapping import map_attributes
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes
from holdfast.engine.objectstore.encrypted import encrypts
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.objectstore.parts import part_store, sweep_uploads
from holdfast.engine.policy import check_hop
from holdfast.engine.replication import journal
from holdfast.engine.replication.admission import copy_forks, refuse_stale
from holdfast.engine.replication.errors import ReplicaDamaged
from holdfast.engine.replication.have import HAVE, Settled, lacking, newest, settle
from holdfast.engine.replication.holding import cannot_hold, not_held
from holdfast.engine.replication.landing import Landing, Own
from holdfast.engine.replication.reports import Refusal, SyncSite, TargetReport
from holdfast.engine.replication.source import is_among, one_array
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.errors import SnapshotError
from holdfast.engine.snapshot.line import bring_line
from holdfast.engine.snapshot.placement import locate_table, write_placement_table
from holdfast.engine.snapshot.publish import commit, put_manifest
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.receipts import Receipt, read_receipt, write_receipt
from holdfast.engine.snapshot.records import CommitRecord, is_committed, read_record, record_keys
from holdfast.engine.snapshot.removals import check_before_commit
from holdfast.errors import HoldfastError, Refused

#: An upload or a note that nobody worked on for so long is nobody's.
ORPHAN_SECONDS = 3600.0
_STRENGTH = {Verification.SAMPLED: 0, Verification.PROVIDER: 1, Verification.ALL: 2}
_GOOD_PROOFS = {
    Verification.ALL: ["read-back"],
    Verification.PROVIDER: ["read-back", "provider"],
    Verification.SAMPLED: ["read-back", "provider", "written"],
}


@dataclass(frozen=True)
class Run:
    """What all parts of one sync know."""

    source: SyncSite
    dataset: str
    folder: str
    policy: Sync
    epoch: int
    residency: Residency | None
    sites: Mapping[str, Site]
    clock: Clock
    run_id: str

    @property
    def prefix(self) -> str:
        return keys.data_folder(self.folder) + "/"


class Target:
    """One target. What its store does wrong ends its part in the sync, and nobody else's."""

    def __init__(self, run: Run, site: SyncSite) -> None:
        self.run, self.site, self.store = run, site.site, site.store
        self.parts = part_store(site.store)
        #: Whether the dataset's objects lie encrypted by the client here.
        self.encrypted = encrypts(site.store, run.dataset)
        self.error: HoldfastError | None = None
        self.refused: str | None = None
        self._refusals: tuple[Refusal, ...] = ()
        self._lock = threading.Lock()
        self._losses: set[str] = set()
        self._translated: dict[tuple[tuple[str, str], ...], Attributes] = {}
        self._have = HAVE.empty_table()
        self._base = HAVE.empty_table()
        self._before: pa.Table | None = None
        self._landed: list[pa.Table] = []
        self._settled: Settled | None = None
        self._served: CommitRecord | None = None
        self._receipt: Receipt | None = None
        self._copied = [0, 0]
        #: Whether it takes part in this run beyond being asked whether it has the newest snapshot.
        self.enlisted = False
        self.unfinished = journal.Unfinished(journal.COPIED.empty_table())
        self.notes: set[str] = set()
        self.journal = journal.RunJournal(site.store, run.dataset, run.run_id, run.clock)
        self.landing = self._landing({})

    # -- taking part ---------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        return self.error is None and self.refused is None

    def fail(self, error: HoldfastError) -> None:
        """It does not take part any more."""
        with self._lock:
            if not self.active:
                return
            if isinstance(error, Refused):
                self.refused = str(error)
            else:
                self.error = error

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What fails in here ends this target's part."""
        try:
            yield
        except HoldfastError as error:
            self.fail(error)

    def check_residency(self) -> None:
        """Before anything of it is touched."""
        with self.trying():
            run = self.run
            check_hop(run.dataset, run.residency, self.site, run.sites, source=run.source.site)

    def admit(self, lineage: ObjectStore, record: CommitRecord | None) -> None:
        """Refuse a target that is in a newer epoch; bring the fork records, which go before everything.

        Args:
            lineage: a bucket that knows the source's lineage.
            record: the snapshot to bring; ``None``: one still to be made.
        """
        run = self.run
        refuse_stale(
            lineage,
            self.store,
            dataset=run.dataset,
            epoch=run.epoch if record is None else record.epoch,
            snapshot_id=None if record is None else record.snapshot_id,
            source_site=run.source.site,
        )
        if lineage is not self.store:
            copy_forks(lineage, self.store, dataset=run.dataset, source_site=run.source.site, target_site=self.site)

    def enlist(self, lineage: ObjectStore, record: CommitRecord | None) -> None:
        """Have it take part: may it, and what is here already. Nothing was written here before this.

        Args: as `admit`.
        """
        self._served = self._receipt = None
        self.admit(lineage, record)
        self.load()
        self.journal.begin()
        self.enlisted = True

    @property
    def takes_part(self) -> bool:
        """Whether objects are to be brought here."""
        return self.active and self.enlisted and not self.served

    def check_names(self, paths: pa.ChunkedArray) -> None:
        """Before anything is read for it: raises InvalidKey when it cannot hold one of these objects."""
        here = self.run.sites.get(self.site)
        self._refusals = cannot_hold(
            paths,
            folder=self.run.folder,
            site_prefix=here.prefix if here is not None else "",
            own_keys=self.landing.direct,
            is_folder=self.store.capabilities().backend == "local",
        )
        if self._refusals:
            raise not_held(self._refusals, f"{self.store.name}: {self.run.prefix}")

    def look_for(self, record: CommitRecord) -> bool:
        """Whether exactly this snapshot is committed here, and lies as it should; then there is nothing to do."""
        if not is_committed(self.store, record):
            return False
        receipt = read_receipt(self.store, record.dataset, record.snapshot_id, self.site)
        if receipt is not None and receipt.encrypted != self.encrypted:
            return False  # `encrypt` was turned on or off since: nothing here can be read as it is asked for now
        self._served, self._receipt = record, receipt
        return True

    @property
    def served(self) -> bool:
        """Whether the snapshot is committed here."""
        return self._served is not None

    # -- what is there already -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Learn what is here: the newest snapshot, and what a run that was cut off noted."""
        self.unfinished = journal.unfinished(self.store, self.run.dataset)
        self.notes = set(self.unfinished.notes)
        trusted = self._load_base()
        spares: dict[str, int] = {}
        if not trusted or self.unfinished.cut_off:
            listing = list_table(self.store, self.run.prefix)
            listing = listing.set_column(0, "key", listing["key"].cast(pa.string()))
            self._before = listing
            hidden = listing.filter(pc.starts_with(listing["key"], f"{self.run.prefix}{keys.VERSIONS}/"))
            spares = dict(zip(hidden["key"].to_pylist(), hidden["size_bytes"].to_pylist(), strict=True))
        self.landing = self._landing(spares)

    def _landing(self, spares: Mapping[str, int]) -> Landing:
        run = self.run
        return Landing(
            self.store,
            folder=run.folder,
            policy=run.policy,
            run_id=run.run_id,
            clock=run.clock,
            translate=self._translate,
            spares=spares,
        )

    def _load_base(self) -> bool:
        """Where the newest snapshot that is committed here lies. Whether its objects may be carried."""
        found = record_keys(self.store, self.run.dataset)
        if not found:
            return False
        try:
            base = read_record(self.store, found[-1].key)
            if base.path != self.run.folder:
                return False
            placed = locate_table(self.store, base, load_manifest(self.store, base))
        except SnapshotError:
            return False  # what it says cannot be trusted, so everything is looked at again
        mine = placed.filter(pc.is_valid(placed["key"]))
        names = ["path", "digest", "key", "version", "e_tag", "modified_at"]
        proof = pa.nulls(mine.num_rows, pa.string())
        self._base = mine.select(names).append_column("proof", proof).cast(HAVE)
        trusted = self._may_carry(base)
        if trusted:
            self._have = self._base
        return trusted

    def _may_carry(self, base: CommitRecord) -> bool:
        """Whether that snapshot was verified here at least as strictly as the policy asks now, and can be told by
        versions."""
        if self.store.capabilities().pinned_reads is not True:
            return False
        receipt = read_receipt(self.store, base.dataset, base.snapshot_id, self.site)
        if receipt is None:
            return base.site == self.site and not self.encrypted  # taken here: hashed where it lies
        if receipt.encrypted != self.encrypted:
            return False
        return _STRENGTH[Verification(receipt.verification)] >= _STRENGTH[self.run.policy.verify]

    def believe(self, chosen: pa.Table) -> None:
        """Take what a run that was cut off noted of these objects, as far as its proof is one the policy takes."""
        copied = self.unfinished.copied
        if not copied.num_rows:
            return
        good = copied.filter(pc.is_in(copied["proof"], value_set=pa.array(_GOOD_PROOFS[self.run.policy.verify])))
        rows = good.take(
            pc.drop_null(pc.index_in(journal.identity(chosen), value_set=one_array(journal.identity(good))))
        )
        times = pa.nulls(rows.num_rows, HAVE.field("modified_at").type)
        names = ("path", "digest", "target_key", "target_version", "target_e_tag")
        self._have = newest(self._have, pa.table([*(rows[n] for n in names), times, rows["proof"]], schema=HAVE))

    def lacking(self, chosen: pa.Table) -> pa.ChunkedArray:
        """Which rows of ``chosen`` are not here, by row."""
        self._consolidate()
        return lacking(chosen, self._have)

    def known(self, work: pa.Table) -> dict[str, Any]:
        """What is known here of each object of a table of work, as columns: own key, and what the base has."""
        at = pc.index_in(work["path"], value_set=one_array(self._base["path"]))
        base = self._base.take(at)
        carried = pc.fill_null(pc.is_in(work["path"], value_set=one_array(self._have["path"])), False)
        nothing = pa.scalar(None, pa.string())
        return {
            "own": self._own(work, base),
            "base_key": pc.if_else(carried, base["key"], nothing),
            "base_digest": pc.if_else(carried, base["digest"], nothing),
        }

    def _own(self, work: pa.Table, base: pa.Table) -> Any:
        own = pc.binary_join_element_wise(pa.scalar(self.run.prefix), work["path"], pa.scalar(""))
        free, taken, maybe = (pa.scalar(int(code), pa.int8()) for code in (Own.FREE, Own.TAKEN, Own.MAYBE))
        if self._before is not None:
            size = self._before["size_bytes"].take(pc.index_in(own, value_set=one_array(self._before["key"])))
            codes = pc.if_else(pc.equal(size, work["size_bytes"]), maybe, taken)
            codes = pc.if_else(pc.is_null(size), free, codes)
        else:
            codes = pc.if_else(pc.is_valid(base["key"]), taken, free)
        if self.landing.taken_paths:
            over = pc.is_in(work["path"], value_set=pa.array(sorted(self.landing.taken_paths), pa.string()))
            codes = pc.if_else(over, taken, codes)
        return codes

    def _translate(self, found: Attributes) -> Attributes:
        """The source's attributes in this target's words; what is lost is noted once."""
        run = self.run
        storage_class = run.policy.storage_class.get(self.site)
        if found is NO_ATTRIBUTES and storage_class is None:
            return found
        simple = not found.metadata and not found.tags
        if storage_class is None and simple and found in _UNSAID:
            return NO_ATTRIBUTES
        headers = tuple(sorted(found.headers().items())) if simple else ()
        if simple and (known := self._translated.get(headers)) is not None:
            return known
        here, there = run.sites.get(run.source.site), run.sites.get(self.site)
        clouds = (here.cloud if here else Cloud.LOCAL, there.cloud if there else Cloud.LOCAL)
        mapped, losses = map_attributes(_unmarked(found), *clouds, storage_class=storage_class)
        with self._lock:
            self._losses.update(losses)
            if simple and len(self._translated) < 1000:
                self._translated[headers] = mapped
        return mapped

    def lose(self, loss: str) -> None:
        """Note what this target does not get of the objects' attributes, once."""
        with self._lock:
            self._losses.add(loss)

    # -- what landed ---------------------------------------------------------------------------------------------------

    def add(self, rows: pa.Table, noted: pa.Table, *, copied_objects: int, copied_bytes: int) -> None:
        """Objects that have landed.

        Args:
            rows: schema `HAVE`.
            noted: the same for the journal, schema `COPIED`.
        """
        self._landed.append(rows)
        self._copied[0] += copied_objects
        self._copied[1] += copied_bytes
        if self.active:
            with self.trying():
                self.journal.add(noted)

    def _consolidate(self) -> None:
        if self._landed:
            self._have = newest(self._have, pa.concat_tables(self._landed))
            self._landed = []

    def settle(self, chosen: pa.Table) -> bool:
        """Whether everything that is believed to be here stands in a listing made now."""
        self._consolidate()
        listing = list_table(self.store, self.run.prefix)
        self._settled, fallen = settle(chosen, self._have, listing, self.run.folder)
        if self._settled is not None:
            return True
        lost = pa.array(fallen, pa.string())
        for key in self._have.filter(pc.is_in(self._have["path"], value_set=lost))["key"].to_pylist():
            if not key.startswith(f"{self.run.prefix}{keys.VERSIONS}/"):
                self.landing.taken(key.removeprefix(self.run.prefix))
            else:
                self.landing.forget_spare(key)
        self._have = self._have.filter(pc.invert(pc.is_in(self._have["path"], value_set=lost)))
        return False

    def give_up(self, path: str) -> None:
        """It keeps losing or bending what is put there."""
        self.fail(
            ReplicaDamaged(
                "bytes written here do not stay as they were written",
                where=f"{self.store.name}: {self.run.prefix}{path}",
                expected="the object in the version that was verified",
                found="another one, or none, again and again",
                fix="Have this store and who else writes there checked; nothing was published there",
            )
        )

    def read(self, path: str, digest: str) -> bytes | None:
        """An object that landed here, checked; ``None`` when it is not here."""
        self._consolidate()
        at = pc.index(self._have["path"], value=path).as_py()
        if at < 0 or self._have["digest"][at].as_py() != digest:
            return None
        data = self.store.get(self._have["key"][at].as_py())
        return data if digest_of(data) == digest else None

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, lineage: ObjectStore, record: CommitRecord, manifest: bytes) -> None:
        """Placement, manifest, receipt, and the commit record last."""
        assert self._settled is not None
        # Asked after the listing that says what is a leftover: what was written since somebody else's commit is none.
        if self.look_for(record):
            return
        self.prepare(record, manifest)
        self.finish(lineage, record, self._settled.placement)

    def prepare(self, record: CommitRecord, manifest: bytes) -> None:
        """Everything of a publication but the commit record. The receipt is last: where it is, the others are."""
        assert self._settled is not None
        write_placement_table(self.store, record, self.site, self._settled.placement)
        put_manifest(self.store, record, manifest)
        self._receipt = self._make_receipt(record, self._settled)
        write_receipt(self.store, self._receipt)

    def finish(self, lineage: ObjectStore, record: CommitRecord, placement: pa.Table) -> None:
        """Commit what was prepared here.

        Args:
            placement: the one that was written, schema `STATE`.
        """
        self.admit(lineage, record)
        used = self._relied_on(placement["key"].filter(pc.is_valid(placement["key"])))
        check_before_commit(self.store, record, (key.as_py() for chunk in used.chunks for key in chunk))
        if lineage is not self.store:
            bring_line(lineage, self.store, record)
        commit(self.store, record)
        self._served = record

    def _relied_on(self, used: pa.ChunkedArray) -> pa.ChunkedArray:
        """Of a placement's keys those that a delete run may take away, and nobody else."""
        return used

    def _make_receipt(self, record: CommitRecord, settled: Settled) -> Receipt:
        placed = settled.placement
        sizes = placed.filter(pc.is_valid(placed["key"]))["size_bytes"]
        counts = {row["values"]: row["counts"] for row in settled.proof.value_counts().to_pylist()}
        read_back = pc.fill_null(pc.equal(settled.proof, "read-back"), False)
        policy = self.run.policy
        return Receipt(
            subject=record.dataset,
            item=record.snapshot_id,
            manifest_digest=record.manifest_digest,
            site=self.site,
            source_site=self.run.source.site,
            object_count=record.object_count,
            size_bytes=record.size_bytes,
            read_back_objects=counts.get("read-back", 0),
            read_back_bytes=int(pc.sum(sizes.filter(read_back)).as_py() or 0),
            carried_objects=counts.get(None, 0),
            verification=policy.verify.value,
            provider_objects=counts.get("provider", 0),
            written_objects=counts.get("written", 0),
            encrypted=self.encrypted,
            verified_at=self.run.clock.now(),
        )

    def tidy(self) -> None:
        """Leave nothing behind that no later run has a use for."""
        now, finished = self.run.clock.now(), self.served
        if not self.enlisted:
            self.unfinished = journal.unfinished(self.store, self.run.dataset)
            self.notes = set(self.unfinished.notes)
        if finished:
            journal.clear(self.store, [*self.unfinished.bunches, *self.journal.keys])
        keep = []
        for name in sorted(self.notes):
            note = journal.read_note(self.store, name)
            if note is None:
                self.store.delete(name)
            elif (finished and self._is_here(note.path)) or (now - note.started_at).total_seconds() > ORPHAN_SECONDS:
                if self.parts is not None:
                    self.parts.abort(note.upload)
                self.store.delete(name)
            else:
                keep.append(note.upload_id)
        sweep_uploads(self.store, self._ours, older_than_seconds=ORPHAN_SECONDS, clock=self.run.clock, keep=keep)

    @property
    def _ours(self) -> str:
        """The prefix below which nobody but Holdfast uploads anything here."""
        return self.run.prefix

    def _is_here(self, path: str) -> bool:
        return is_among(pa.chunked_array([[path]]), self._have["path"])[0].as_py() is True

    def report(self) -> TargetReport:
        """What became of it."""
        receipt = self._receipt if self.served else None
        mine = self._settled is not None and receipt is not None and self._copied is not None
        verified = receipt.read_back_objects + receipt.provider_objects if receipt is not None and mine else 0
        carried = 0
        if self._served is not None:
            carried = receipt.carried_objects if receipt is not None and mine else self._served.object_count
        return TargetReport(
            site=self.site,
            copied_objects=self._copied[0],
            copied_bytes=self._copied[1],
            carried_objects=carried,
            verified_objects=verified,
            receipt_key=receipt.key if receipt is not None else None,
            refused=self.refused,
            error=None if self.error is None else str(self.error),
            losses=tuple(sorted(self._losses)),
            refusals=self._refusals,
        )


#: What stores say of an object nobody said anything of.
_UNSAID = [
    NO_ATTRIBUTES,
    Attributes(content_type="application/octet-stream"),
    Attributes(content_type="binary/octet-stream"),
]


def _unmarked(found: Attributes) -> Attributes:
    """Without what a replication wrote there: it speaks of the source's own site."""
    marks = {"holdfast_snapshot", "holdfast_path"}
    if not marks & found.metadata.keys():
        return found
    return replace(found, metadata={name: value for name, value in found.metadata.items() if name not in marks})


def cut_off_rows(fresh: pa.Table, targets: Sequence[Target]) -> pa.Table:
    """What the targets' journals know of objects (schema `FRESH`) in exactly their listed state: path and digest."""
    copied = pa.concat_tables(
        [target.unfinished.copied for target in targets if target.active] or [journal.COPIED.empty_table()]
    )
    if not copied.num_rows or not fresh.num_rows:
        return fresh.select(["path"]).slice(0, 0).append_column("digest", pa.array([], pa.string()))
    at = pc.index_in(journal.identity(fresh), value_set=one_array(journal.identity(copied)))
    rows = fresh.select(["path"]).append_column("digest", copied["digest"].take(at))
    return rows.filter(pc.is_valid(rows["digest"]))
