"""Whether Holdfast's records are all there: by the chains they form."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from holdfast.engine.audit.interface import Finding, State
from holdfast.engine.audit.sources.holdfast_copies import Record, Survey
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore

_COMMIT = re.compile(r"snapshots/(?P<dataset>[^/]+)/[^/]+-(?P<id>[0-9a-f]{32})\.json")
_EXPIRED = re.compile(r"tombstones/(?P<dataset>[^/]+)/expired-(?P<id>[0-9a-f]{32})\.json")
_FORK = re.compile(r"(?P<subject>(?:snapshots|runs)/[^/]+)/epochs/(?P<epoch>\d{6,})\.json")
_STEP = re.compile(r"plans/(?P<group>[^/]+)/[^/]+/(?P<epoch>\d{6,})/.+")
_DECISIONS = re.compile(r"decisions/.*/(?P<writer>[^/]+)-(?P<seq>\d{8,})\.jsonl")
_NOTHING_BEFORE = "0" * 64
#: What a writer decided before something that arrived has arrived too by then, unless its machine is cut off or gone.
SHIPPED_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Lines:
    """What one object of the decision log says of its writer's sequence.

    Args:
        previous: what its first line is chained to.
        last: number and hash of its last line.
        broken: number of the first line that does not follow on the one before it in this object.
    """

    previous: str
    last: tuple[int, str]
    broken: int | None


@dataclass
class Facts:
    """What the proofs need of the records, noted as they go by."""

    parents: dict[str, str] = field(default_factory=dict)
    parent_epochs: dict[str, int] = field(default_factory=dict)
    lines: dict[str, Lines] = field(default_factory=dict)

    def note(self, record: Record, data: bytes) -> None:
        """One record's bytes."""
        if record.kind.name == "decision":
            if (found := lines_of(record, data)) is not None:
                self.lines[record.name] = found
        elif record.kind.name in ("commit", "fork"):
            body = _document(data) or {}
            parent, parent_epoch = body.get("parent"), body.get("parent_epoch")
            if isinstance(parent, str):
                self.parents[record.name] = parent
            if isinstance(parent_epoch, int):
                self.parent_epochs[record.name] = parent_epoch


def lost(survey: Survey) -> State:
    """What a missing record means: while a site tells nothing, it may lie there."""
    return State.UNKNOWN if survey.is_partial else State.GAP


def commit_parents(survey: Survey, facts: Facts) -> Iterator[Finding]:
    """Each snapshot's parent is committed somewhere, or was expired by a rule that left its mark."""
    known = {
        (match["dataset"], match["id"])
        for name in survey.records
        if (match := _COMMIT.fullmatch(name) or _EXPIRED.fullmatch(name))
    }
    for name, parent in facts.parents.items():
        match = _COMMIT.fullmatch(name)
        if match is not None and (match["dataset"], parent) not in known:
            yield Finding(
                "commit-parent-missing",
                f"the snapshot follows {parent}, of which there is no commit record and no mark that it was expired",
                name,
                lost(survey),
            )


def epochs(survey: Survey, facts: Facts) -> Iterator[Finding]:
    """Each fork's parent epoch has a fork of the same subject too, down to the first, which needs none."""
    known: dict[str, set[int]] = defaultdict(set)
    for name in survey.records:
        if match := _FORK.fullmatch(name):
            known[match["subject"]].add(int(match["epoch"]))
    for name, parent in facts.parent_epochs.items():
        match = _FORK.fullmatch(name)
        if match is not None and parent > 1 and parent not in known[match["subject"]]:
            yield Finding(
                "epoch-missing",
                f"the epoch forked from epoch {parent}, of which there is no fork record",
                name,
                lost(survey),
            )


def committed_epochs(survey: Survey, group: str, subjects: Iterable[str], current: int) -> Iterator[Finding]:
    """Each epoch up to the one the register names left a fork of one of the group's subjects, or a plan's records."""
    wanted = set(subjects)
    seen = {1, current}
    for name in survey.records:
        fork, step = _FORK.fullmatch(name), _STEP.fullmatch(name)
        if fork and (fork["subject"] in wanted or fork["subject"].startswith(f"runs/{group}-")):
            seen.add(int(fork["epoch"]))
        elif step and step["group"] == group:
            seen.add(int(step["epoch"]))
    if missing := sorted(set(range(1, current + 1)) - seen):
        yield Finding(
            "epoch-missing",
            f"the register of {group} is at epoch {current}; of epochs {', '.join(map(str, missing))} there is neither "
            "a fork record nor a plan's",
            f"authority/{group}",
            lost(survey),
        )


def decisions(
    survey: Survey, selected: Iterable[str], facts: Facts, read: Callable[[Record], bytes | None], now: datetime
) -> Iterator[Finding]:
    """Each writer's lines follow on each other, up to the last object of those selected.

    Args:
        selected: names of records.
        now: a hole is final an hour after what follows it arrived: its writer ships each object by itself.
        read: the bytes of a record before a selected one; ``None``: it cannot be read.
    """
    by_writer: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    for record in survey.records.values():
        if match := _DECISIONS.fullmatch(record.name):
            by_writer[match["writer"]].append((int(match["seq"]), record))
    wanted = set(selected)
    for writer, objects in by_writer.items():
        objects.sort(key=lambda one: one[0])
        for position, (first, record) in enumerate(objects):
            lines = facts.lines.get(record.name)
            if record.name not in wanted or lines is None:
                continue
            before = (0, _NOTHING_BEFORE)
            if position:
                earlier = objects[position - 1][1]
                known = facts.lines.get(earlier.name) or lines_of(earlier, read(earlier) or b"")
                before = known.last if known is not None else (-1, "")
            hole = State.LATE if now - record.arrived_at < SHIPPED_WITHIN else lost(survey)
            yield from _follows(writer, first, record.name, lines, before, hole)


def _follows(
    writer: str, first: int, name: str, lines: Lines, before: tuple[int, str], state: State
) -> Iterator[Finding]:
    seq, digest = before
    if first > seq + 1 or seq < 0:
        what = f"expected number {seq + 1}, found {first}" if seq >= 0 else "the object before cannot be read"
        yield Finding("decision-sequence", f"the decisions of {writer} have a hole: {what}", name, state)
    elif first <= seq:
        yield Finding("decision-sequence", f"{writer} has number {first} twice: expected {seq + 1}", name)
    elif lines.previous != digest:
        yield Finding("decision-chain", f"line {first} of {writer} does not follow on the one before it", name)
    if lines.broken is not None:
        yield Finding("decision-chain", f"line {lines.broken} of {writer} does not follow on the one before it", name)


def lines_of(record: Record, data: bytes) -> Lines | None:
    """The sequence in one object; ``None`` when it holds none."""
    match = _DECISIONS.fullmatch(record.name)
    lines = data.split(b"\n")[:-1]
    if match is None or not lines:
        return None
    number, previous = int(match["seq"]), ""
    first: str | None = None
    broken: int | None = None
    for line in lines:
        body = _document(line) or {}
        chained = body.get("seq") == number and body.get("writer") == match["writer"]
        if first is None:
            first = str(body.get("previous"))
        elif body.get("previous") != previous:
            chained = False
        if not chained and broken is None:
            broken = number
        number, previous = number + 1, hashlib.sha256(line).hexdigest()
    assert first is not None
    return Lines(first, (number - 1, previous), broken)


def vault_log(vault: str, stores: Mapping[str, ObjectStore], witnesses: Mapping[str, ObjectStore]) -> Iterator[Finding]:
    """A vault's log holds every entry that counts, chained, signed by who might, and no less than its witnesses saw."""
    from holdfast.engine.vault.errors import HistoryDamaged, NoVault, VaultError
    from holdfast.engine.vault.history import load_history
    from holdfast.engine.vault.witness import ask_witnesses, check_witnesses

    for number, (site, store) in enumerate(stores.items()):
        damage: list[HistoryDamaged] = []
        where = f"vaults/{vault} at {site}"
        try:
            history = load_history(store, hinted=False, damage=damage)
            if number == 0:  # a mirror may lag behind
                told = ask_witnesses(history, witnesses)
                # What was appended while they were asked is in the history only when it is read after them.
                check_witnesses(store, load_history(store, hinted=False, damage=[]), told)
        except (NoVault, ObjectStoreError):
            continue  # nothing lies there yet, or the site's own finding says that it does not answer
        except VaultError as error:
            yield Finding("vault-log", str(error), where)
        for found in damage:
            yield Finding("vault-log", str(found), where)


def _document(data: bytes | None) -> dict[str, object] | None:
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
