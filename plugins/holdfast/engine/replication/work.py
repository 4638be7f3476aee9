"""What one round of a sync copies: a table of work, its rows as items, and its outcomes as tables again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.replication.copying import Done, Item
from holdfast.engine.replication.have import HAVE
from holdfast.engine.replication.journal import COPIED
from holdfast.engine.replication.landing import Need, Own
from holdfast.engine.replication.plan.filters import wave_of
from holdfast.engine.replication.source import FACTS, Look
from holdfast.engine.replication.target import Target
from holdfast.engine.snapshot.tables import TableFormat, table_waves
from holdfast.errors import HoldfastError

#: An object to be read: where and in which state, and its digest where that is known already.
WORK = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("key", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("e_tag", pa.string()),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("digest", pa.string()),
        pa.field("before", pa.string()),
        pa.field("wave", pa.int32()),
    ]
)


def plan_round(seen: Look, targets: Sequence[Target], policy: Sync) -> pa.Table:
    """Everything that has to be read now: schema `WORK`, and for the n-th target the columns ``need_n``, ``own_n``,
    ``base_key_n`` and ``base_digest_n``.

    Args:
        targets: those that take part, at their places; ``None``-like ones are not active.
        policy: what is copied last, and whether it is a lake table, whose commits go in their order.
    """
    fresh, chosen = seen.fresh, seen.chosen
    needs = [target.lacking(chosen) if target.takes_part else _nobody(chosen) for target in targets]
    wanted = _nobody(chosen)
    for need in needs:
        wanted = pc.or_(wanted, need)
    known = chosen.filter(wanted)
    columns = [known[name] if name in known.schema.names else None for name in WORK.names]
    waves = wave_of(known["path"].cast(pa.large_string()), policy.last)
    before = pa.nulls(known.num_rows, pa.string())
    parts = {"before": before, "wave": waves}
    known = pa.table(
        [parts.get(name, column) for name, column in zip(WORK.names, columns, strict=True)], names=WORK.names
    ).cast(WORK)
    nothing = pa.nulls(fresh.num_rows, pa.string())
    fresh = pa.table([nothing if n == "digest" else fresh[n] for n in WORK.names], names=WORK.names).cast(WORK)
    work = pa.concat_tables([fresh, known]).combine_chunks()
    if policy.table != "none":
        work = _in_commit_order(work, policy.table)
    for number, (target, need) in enumerate(zip(targets, needs, strict=True)):
        all_fresh = pa.repeat(pa.scalar(target.takes_part), fresh.num_rows)
        lacks = pa.concat_arrays([all_fresh, *need.filter(wanted).chunks])
        work = work.append_column(f"need_{number}", lacks)
        for name, column in target.known(work).items():
            work = work.append_column(f"{name}_{number}", column)
    return work.sort_by("wave").combine_chunks() if _has_waves(work) else work


def _in_commit_order(work: pa.Table, table: TableFormat) -> pa.Table:
    """The same work with a table's commits one by one after its data, and what is copied last after all of them."""
    groups = table_waves(table, work["path"].to_pylist())
    later = max(groups.values(), default=0)
    waves = [later + wave if wave else groups[path] for path, wave in zip(*_columns(work, "path", "wave"), strict=True)]
    return work.set_column(work.schema.get_field_index("wave"), WORK.field("wave"), pa.array(waves, pa.int32()))


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _nobody(chosen: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(False), chosen.num_rows)])


def _has_waves(work: pa.Table) -> bool:
    return bool(work.num_rows) and bool(pc.any(pc.greater(work["wave"], 0)).as_py())


def waves(work: pa.Table) -> list[pa.Table]:
    """The table cut into what is copied together, in order."""
    numbers = sorted(pc.unique(work["wave"]).to_pylist())
    if len(numbers) < 2:
        return [work] if work.num_rows else []
    return [work.filter(pc.equal(work["wave"], number)) for number in numbers]


@dataclass(frozen=True)
class Items:
    """Makes items of rows of a table of work."""

    prefix: str
    targets: int

    def make(self, rows: pa.Table, start: int) -> list[Item]:
        """The items of a slice that begins at row ``start``."""
        names = ["path", "key", "size_bytes", "version", "e_tag", "digest", "before"]
        plain = [rows[name].to_pylist() for name in names]
        needs = self._needs(rows)
        skip = len(self.prefix)
        return [
            Item(
                index=start + number,
                path=path,
                key=key,
                relative=key[skip:],
                size_bytes=size_bytes,
                pin=None if version is None and e_tag is None else ObjectVersion(e_tag, version),
                digest=digest,
                before=before,
                needs=needs[number],
            )
            for number, (path, key, size_bytes, version, e_tag, digest, before) in enumerate(zip(*plain, strict=True))
        ]

    def _needs(self, rows: pa.Table) -> list[tuple[Need, ...]]:
        found: list[tuple[Need, ...]] = [()] * rows.num_rows
        for target in range(self.targets):
            columns = [rows[f"{name}_{target}"].to_pylist() for name in ("need", "own", "base_key", "base_digest")]
            for number, (need, own, key, digest) in enumerate(zip(*columns, strict=True)):
                if need:
                    found[number] = (*found[number], Need(target, Own(own), key, digest))
        return found


@dataclass
class Outcome:
    """What the items of one table of work came to."""

    work: pa.Table
    #: Rows that were read and hashed though their digest was not known, and their digests.
    hashed: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    #: Rows that came with a replication, and the digests of what was read.
    left_over: list[int] = field(default_factory=list)
    left_over_digests: list[str | None] = field(default_factory=list)
    moved: int = 0
    read_bytes: int = 0
    hashed_bytes: int = 0
    wrong: HoldfastError | None = None

    def take(self, done: Sequence[Done], targets: Sequence[Target]) -> None:
        """Note outcomes, and tell the targets what landed there."""
        landed: list[list[tuple[int, str, Any]]] = [[] for _ in targets]
        for one in done:
            self.read_bytes += one.read_bytes
            if one.left_over:
                self.left_over.append(one.item.index)
                self.left_over_digests.append(one.digest)
                continue
            if one.digest is None:
                self.moved += 1
                self.wrong = one.wrong or self.wrong
                continue
            if one.item.digest is None:
                self.hashed.append(one.item.index)
                self.digests.append(one.digest)
                self.versions.append(one.version)
                self.hashed_bytes += one.item.size_bytes
            for target, there in one.landed:
                if there.how != "carried":
                    landed[target].append((one.item.index, one.digest, there))
        for receiver, rows in zip(targets, landed, strict=True):
            if rows:
                self._tell(receiver, rows)

    def _tell(self, target: Target, landed: list[tuple[int, str, Any]]) -> None:
        at = pa.array([index for index, _, _ in landed], pa.int64())
        work = self.work.select(["path", *FACTS]).take(at)
        digests = pa.array([digest for _, digest, _ in landed], pa.string())
        keys = pa.array([there.key for _, _, there in landed], pa.string())
        versions = pa.array([there.version.version for _, _, there in landed], pa.string())
        tags = pa.array([there.version.e_tag for _, _, there in landed], pa.string())
        proofs = pa.array([there.proof for _, _, there in landed], pa.string())
        times = pa.nulls(len(landed), pa.timestamp("us", tz="UTC"))
        rows = pa.table([work["path"], digests, keys, versions, tags, times, proofs], schema=HAVE)
        noted = {
            **{name: work[name] for name in work.schema.names},
            "digest": digests,
            "target_key": keys,
            "target_version": versions,
            "target_e_tag": tags,
            "proof": proofs,
        }
        copied = [index for index, _, there in landed if there.how == "copied"]
        size_bytes = pc.sum(self.work["size_bytes"].take(pa.array(copied, pa.int64()))).as_py() or 0
        target.add(
            rows,
            pa.table([noted[name] for name in COPIED.names], schema=COPIED),
            copied_objects=len(copied),
            copied_bytes=size_bytes,
        )
