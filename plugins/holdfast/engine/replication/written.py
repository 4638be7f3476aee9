"""One of two sites that are both written to: a source of what its writers changed, and a target of the other's changes.

What the site's next placement says is derived from one recorded look at its folder, the one that was compared. So
whatever is written there afterwards differs from the placement, and the next run sees it as a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.replication import journal
from holdfast.engine.replication.errors import ReplicaDamaged
from holdfast.engine.replication.have import HAVE, Settled, lacking
from holdfast.engine.replication.landing import Own
from holdfast.engine.replication.reports import SyncSite
from holdfast.engine.replication.source import (
    FACTS,
    STATE,
    Look,
    content,
    hashed_rows,
    is_among,
    left_over_rows,
    look,
    merge,
    one_array,
)
from holdfast.engine.replication.target import Run, Target, cut_off_rows
from holdfast.engine.replication.work import Outcome
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.engine.snapshot.placement import locate_table
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord
from holdfast.engine.snapshot.threads import in_threads

_TEXT = pa.string()
_BESIDE = ("version", "e_tag", "modified_at")
_IDENTITY = ("key", "size_bytes", "version", "e_tag")


class WrittenTarget(Target):
    """A target whose folder has writers of its own: what it has is what the latest look shows, and what landed since.

    Args:
        run: of the other site: its source is where the objects come from.
    """

    def __init__(self, run: Run, site: SyncSite) -> None:
        super().__init__(run, site)
        self._stock = HAVE.empty_table()
        self._seen_once = False
        self._known = pa.array([], _TEXT)

    def load(self) -> None:
        """Only what a run that was cut off noted: no placement tells what lies where writers write."""
        self.unfinished = journal.unfinished(self.store, self.run.dataset)
        self.notes = set(self.unfinished.notes)

    def see(self, chosen: pa.Table, listing: pa.Table, known: pa.ChunkedArray) -> None:
        """Take the latest look at this site's folder.

        Args:
            chosen: schema `STATE`: the dataset's objects there.
            listing: schema `LISTING`.
            known: paths of the newest snapshot here. Nothing lands at their own keys: where one is free, its writers
                removed the object, and that has to be seen by whoever looks after a run that died.
        """
        self._known = one_array(known)
        proof = pa.nulls(chosen.num_rows, _TEXT)
        self._stock = chosen.select(HAVE.names[:-1]).append_column("proof", proof).cast(HAVE)
        self._before = listing.set_column(0, "key", listing["key"].cast(_TEXT))
        if not self._seen_once:
            inside = pc.starts_with(self._before["key"], f"{self.run.prefix}{keys.VERSIONS}/")
            hidden = self._before.filter(inside)
            sizes = zip(hidden["key"].to_pylist(), hidden["size_bytes"].to_pylist(), strict=True)
            self.landing = self._landing(dict(sizes))
            self._seen_once = True

    def lacking(self, chosen: pa.Table) -> pa.ChunkedArray:
        """Which rows of ``chosen`` are not here, by row."""
        return pc.and_(lacking(chosen, self._stock), lacking(chosen, self.landed()))

    def known(self, work: pa.Table) -> dict[str, Any]:
        """As `Target.known`."""
        found = super().known(work)
        taken = pc.is_in(work["path"], value_set=self._known)
        return found | {"own": pc.if_else(taken, pa.scalar(int(Own.TAKEN), pa.int8()), found["own"])}

    def landed(self) -> pa.Table:
        """What this run, or one that was cut off, brought here: schema `HAVE`."""
        self._consolidate()
        return self._have

    def forget(self, paths: pa.ChunkedArray) -> None:
        """What was brought of these does not stand any more."""
        self._have = self._have.filter(pc.invert(is_among(self._have["path"], paths)))

    def settled(self, found: Settled) -> None:
        """Where everything lies here, for the publication."""
        self._settled = found

    def _relied_on(self, used: pa.ChunkedArray) -> pa.ChunkedArray:
        """Own keys are its writers', who may have removed an object since; no delete run looks at them."""
        return used.filter(pc.starts_with(used, f"{self.run.prefix}{keys.VERSIONS}/"))

    @property
    def _ours(self) -> str:
        """An upload to an own key may be a writer's, who completes it when a job commits, hours later."""
        return f"{self.run.prefix}{keys.VERSIONS}/"

    def placement(self) -> pa.Table:
        """Where everything lies here: schema `STATE`."""
        assert self._settled is not None
        return self._settled.placement

    def serve(self, record: CommitRecord) -> None:
        """The snapshot is committed here."""
        self._served = record

    def may_carry(self, base: CommitRecord) -> bool:
        """Whether what a snapshot here was verified by is as strict as the policy is now."""
        return self._may_carry(base)


class Written:
    """A site that is written to, as its folder was at the latest look.

    Args:
        run: of this site as the source.
        target: this site as the receiver of the other's changes.
        record: the newest snapshot here; its placement tells what of the folder is known.
    """

    def __init__(self, run: Run, target: WrittenTarget, record: CommitRecord) -> None:
        self.run, self.store, self.target, self.record = run, run.source.store, target, record
        self.site = run.source.site
        placed = locate_table(self.store, record, load_manifest(self.store, record)).cast(STATE)
        #: As published, and with what this run has hashed.
        self.base = self.state = placed.sort_by("path")
        #: The paths of the newest snapshot here.
        self.published = self.base.filter(pc.is_valid(self.base["key"]))["path"]
        self._read_anew = {""}
        self.seen: Look
        self._landed_before = _identity(target.landed())
        self.hashed_objects = self.hashed_bytes = self.read_bytes = 0

    # -- as a source ---------------------------------------------------------------------------------------------------

    def look(self, now: datetime) -> Look:
        """List the folder; what was landed here by this very run is not the writers'."""
        self._landed_before = _identity(self.target.landed())
        listing = list_table(self.store, self.run.prefix)
        self._listing = listing.set_column(0, "key", listing["key"].cast(_TEXT))
        return self._look_at(listing.filter(pc.invert(self._is_landed(self._listing))), now)

    def know_more(self, now: datetime) -> Look:
        """The same listing, after more of it was hashed."""
        return self._look_at(self.seen.listing, now)

    def _look_at(self, listing: pa.Table, now: datetime) -> Look:
        run = self.run
        self.seen = look(self.store, run.folder, self.state, policy=run.policy, now=now, listing=listing)
        self.target.see(self.seen.chosen, self._listing, self.published)
        return self.seen

    def _is_landed(self, listing: pa.Table) -> pa.ChunkedArray:
        """Which listed objects are what was landed at their own keys, and not known as the site's own."""
        landed = self.target.landed()
        at_own = pc.equal(pc.binary_join_element_wise(self.run.prefix, landed["path"], ""), landed["key"])
        landed = landed.filter(pc.and_(at_own, pc.invert(is_among(landed["key"], self.state["key"])))).combine_chunks()
        mine = landed.take(pc.index_in(listing["key"], value_set=one_array(landed["key"]))).combine_chunks()
        same = pc.coalesce(
            pc.equal(mine["e_tag"], listing["e_tag"].cast(_TEXT)),
            pc.equal(mine["version"], listing["version"].cast(_TEXT)),
        )
        return pc.fill_null(same, False)

    def is_base(self) -> bool:
        """Whether the site is as its newest snapshot says."""
        return not self.seen.fresh.num_rows and content(self.seen.chosen).equals(content(self.base))

    def changed(self, common: pa.Table) -> pa.ChunkedArray:
        """The paths that are not, or may not be, as in the common manifest's table."""
        seen = self.seen
        other = seen.chosen.filter(lacking(seen.chosen, common))["path"]
        gone = common["path"].filter(pc.invert(is_among(common["path"], seen.standing["path"])))
        chunks = [chunk.cast(_TEXT) for column in (seen.fresh["path"], other, gone) for chunk in column.chunks]
        return pa.chunked_array(chunks, _TEXT)

    def manifest(self, among: pa.ChunkedArray) -> Manifest:
        """The site's objects of these paths; its bytes are none."""
        rows = self.seen.chosen
        return Manifest(rows.filter(is_among(rows["path"], among)).select(["path", "size_bytes", "digest"]), b"")

    def resume(self, receivers: Sequence[Target], now: datetime) -> None:
        """Take what runs that were cut off noted of the objects' digests instead of reading them again."""
        known = cut_off_rows(self.seen.fresh, receivers)
        if known.num_rows:
            at = pc.index_in(known["path"], value_set=one_array(self.seen.fresh["path"]))
            self._learn(hashed_rows(self.seen.fresh.take(at), known["digest"]))
            self.know_more(now)

    def take(self, outcome: Outcome) -> int:
        """Learn what was read; how many objects were not as listed any more, or were no data of the dataset.

        A mark is not believed where the newest snapshot here has the object at its own key: nothing but a writer puts
        other bytes there, and tools that edit an object in place keep its metadata.
        """
        fresh = outcome.work.select(["path", *FACTS])
        rows = fresh.take(pa.array(outcome.hashed, pa.int64()))
        marked = fresh.take(pa.array(outcome.left_over, pa.int64()))
        edited = is_among(marked["key"], self.base["key"])
        digests = pa.chunked_array([pa.array(outcome.left_over_digests, _TEXT)]).filter(edited)
        texts = (pa.array(column, _TEXT) for column in (outcome.digests, outcome.versions))
        self._learn(hashed_rows(rows, *texts))
        self._learn(hashed_rows(marked.filter(edited), digests))
        strays = marked.filter(pc.invert(edited))
        self.state = merge(self.state, left_over_rows(strays, self.state, self.seen.inside))
        self.hashed_objects += len(outcome.hashed) + len(digests)
        self.hashed_bytes += outcome.hashed_bytes
        self.read_bytes += outcome.read_bytes
        return outcome.moved + len(outcome.left_over)

    def _learn(self, rows: pa.Table) -> None:
        self.state = merge(self.state, rows)
        self._read_anew.update(rows["path"].to_pylist())

    # -- as a target ---------------------------------------------------------------------------------------------------

    def place(self, merged: pa.Table) -> Settled | None:
        """Where each object of the merged dataset lies here, by the latest look.

        Args:
            merged: ``path``, ``digest``, ``size_bytes``, sorted by path.

        Returns:
            ``None``: something was brought here since that look, or does not stand in it; then it is forgotten.
        """
        chosen, landed = self.seen.chosen, self.target.landed()
        brought = merged.filter(lacking(merged, chosen))
        kept = chosen.filter(pc.invert(lacking(chosen, merged)))
        if pc.any(lacking(brought, landed)).as_py():
            return None
        mine = landed.take(pc.index_in(brought["path"], value_set=one_array(landed["path"]))).combine_chunks()
        if pc.all(pc.is_in(_identity(mine), value_set=one_array(self._landed_before))).as_py() is False:
            return None
        there = self._listing.take(pc.index_in(mine["key"], value_set=one_array(self._listing["key"]))).combine_chunks()
        stands = _stands(brought, mine, there)
        if pc.all(stands).as_py() is False:
            self.target.forget(brought["path"].filter(pc.invert(stands)))
            return None
        own = pc.binary_join_element_wise(self.run.prefix, brought["path"], "")
        beside = self._beside()
        others = beside.take(pc.index_in(brought["path"], value_set=one_array(beside["path"]))).combine_chunks()
        elsewhere = pc.not_equal(own, mine["key"])
        columns = {name: brought[name] for name in ("path", "digest", "size_bytes")} | {"key": mine["key"]}
        for name in _BESIDE:
            columns[name] = there[name]
            kind = STATE.field(f"other_{name}").type
            columns[f"other_{name}"] = pc.if_else(elsewhere, others[f"other_{name}"], pa.scalar(None, kind))
        rows = pa.table([columns[name] for name in STATE.names], names=STATE.names).cast(STATE)
        stray = beside.filter(pc.invert(is_among(beside["path"], merged["path"])))
        left = [
            stray[name] if name in beside.schema.names else pa.nulls(stray.num_rows, STATE.field(name).type)
            for name in STATE.names
        ]
        left_over = pa.table(left, names=STATE.names).cast(STATE)
        placement = pa.concat_tables([kept, rows, left_over]).sort_by("path").combine_chunks()
        return Settled(placement, self._proofs(merged, kept, brought["path"], mine["proof"]))

    def _beside(self) -> pa.Table:
        """What the look shows at own keys, known or left over: ``path`` and ``other_*``."""
        chosen, left = self.seen.chosen, self.seen.left_over
        at_own = pc.equal(pc.binary_join_element_wise(self.run.prefix, chosen["path"], ""), chosen["key"])
        facts = {f"other_{name}": pc.if_else(at_own, chosen[name], chosen[f"other_{name}"]) for name in _BESIDE}
        here = pa.table({"path": chosen["path"], **facts})
        both = pa.concat_tables([here, left.select(here.schema.names).cast(here.schema)])
        return both.filter(pc.is_valid(both["other_modified_at"])).combine_chunks()

    def _proofs(
        self, merged: pa.Table, kept: pa.Table, brought: pa.ChunkedArray, how: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """By row of the merged dataset how it is known to be right here; null: carried from the base."""
        anew = pc.is_in(kept["path"], value_set=pa.array(sorted(self._read_anew), _TEXT))
        own = pc.if_else(anew, pa.scalar("read-back"), pa.scalar(None, _TEXT))
        paths = pa.chunked_array([*kept["path"].chunks, *brought.chunks], _TEXT)
        proofs = pa.chunked_array([*_chunks(own), *_chunks(how)], _TEXT)
        return pa.chunked_array(_chunks(proofs.take(pc.index_in(merged["path"], value_set=one_array(paths)))), _TEXT)

    def verify_kept(self, threads: int) -> None:
        """Read back what stands here as published, where that was verified less strictly than the policy asks now.

        Raises:
            ReplicaDamaged: an object is not what its version says it is.
        """
        if self.target.may_carry(self.record):
            return
        rows = [
            (row["path"], row["key"], row["digest"])
            for row in self.seen.chosen.select(["path", "key", "digest"]).to_pylist()
            if row["path"] not in self._read_anew
        ]
        verifier = self.target.landing.verifier

        def read(row: tuple[str, str, str]) -> tuple[str, str, str, bool]:
            return *row, verifier.is_there_by_two_reads(row[1], row[2]) is not None

        for path, key, digest, is_right in in_threads(read, rows, threads=threads, name="holdfast-merge"):
            if not is_right:
                raise ReplicaDamaged(
                    "an object is not what it was published as, though its version is the same",
                    where=f"{self.store.name}: {key}",
                    expected=digest,
                    found="other bytes",
                    fix="Write the object anew at one of the sites; nothing was merged",
                )
            self._read_anew.add(path)


def only(seen: Look, chosen: pa.Table) -> Look:
    """A look with these objects known and nothing to be read."""
    return replace(seen, chosen=chosen, fresh=seen.fresh.slice(0, 0))


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _identity(landed: pa.Table) -> pa.ChunkedArray:
    """One text for each object in the state in which it landed: rows of schema `HAVE`."""
    state = pc.fill_null(pc.coalesce(landed["e_tag"], landed["version"]), "")
    return pc.binary_join_element_wise(landed["key"], landed["digest"], state, "\n")


def _stands(brought: pa.Table, mine: pa.Table, there: pa.Table) -> pa.ChunkedArray:
    """Which of the objects that were brought stand in the listing in the state their write was answered with."""
    tags = pc.equal(mine["e_tag"], there["e_tag"].cast(_TEXT))
    versions = pc.equal(mine["version"], there["version"].cast(_TEXT))
    untold = pc.and_(pc.is_null(mine["e_tag"]), pc.is_null(mine["version"]))
    same = pc.or_(untold, pc.fill_null(pc.coalesce(tags, versions), False))
    return pc.and_(pc.fill_null(pc.equal(brought["size_bytes"], there["size_bytes"]), False), same)
