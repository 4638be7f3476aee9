"""Exporting: every source is asked for what is new, and what it gives is sealed into the ledger, at two clouds or more.

Killed at any moment it is run again: what was read stays in the staging folder, and the seal counts when the ledger's
first site has its record. docs/how-to/audit.md tells how; docs/formats/audit-export.md, every byte.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.engine.audit import pending as pendings
from holdfast.engine.audit import retention
from holdfast.engine.audit.before import Before
from holdfast.engine.audit.collect import Asked, Progress, collect, staged_units
from holdfast.engine.audit.coverage import worst
from holdfast.engine.audit.errors import NotComplete
from holdfast.engine.audit.handing import copy_export, require_documents, require_place
from holdfast.engine.audit.interface import (
    AuditSource,
    Batch,
    Coverage,
    Document,
    Finding,
    Interval,
    SourceUnreadable,
    State,
)
from holdfast.engine.audit.ledger import Copied, Ledger, SealRecord
from holdfast.engine.audit.locking import Locking, retention_of
from holdfast.engine.audit.looking_back import LookingBack, not_looked_for
from holdfast.engine.audit.manifest import CHECKPOINT, TIMESTAMP, Manifest
from holdfast.engine.audit.ocsf.schema import build
from holdfast.engine.audit.own import own_documents
from holdfast.engine.audit.privacy.certificates import deliver, new_certificates
from holdfast.engine.audit.privacy.keys import SubjectKeys, open_keys
from holdfast.engine.audit.problems import Problem
from holdfast.engine.audit.remembered import home_at, remember, require_goes_on
from holdfast.engine.audit.seal import Collected, Sealed, seal
from holdfast.engine.audit.shortfalls import ONE_CLOUD, where_it_lacks
from holdfast.engine.audit.signing import cosigners, require_signed
from holdfast.engine.audit.sources.airflow_position import POSITION
from holdfast.engine.audit.sources.open import Earlier, open_source
from holdfast.engine.audit.tiling import write_tiles
from holdfast.engine.audit.window import require_window, sealing_moment, window_ends
from holdfast.engine.config.audit import Audit, Source
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError, Refused

#: How far back the first export of a source looks, unless told otherwise.
FIRST_WINDOW = timedelta(days=1)
_PLAN = "plan.json"

Opener = Callable[[Runtime, str, Source, Earlier], AuditSource]


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Args:
        folder: where a copy of it was written; ``None``: nowhere but the ledger.
        copied: per site whether it has the seal.
        locked: per site until when its objects are locked, or why not.
        problems: what it is not though it was sealed: at every site, in two clouds, locked as was asked.
    """

    folder: Path | None
    manifest: Manifest
    record: SealRecord
    copied: tuple[Copied, ...]
    locked: dict[str, str]
    problems: tuple[Problem, ...]

    @property
    def exit_code(self) -> int:
        """0, or 6 where it lies in one cloud alone."""
        return NotComplete.exit_code if any(one.code == ONE_CLOUD for one in self.problems) else 0

    @property
    def state(self) -> State:
        """The worst of all sources."""
        return worst(source.state for source in self.manifest.sources)

    def to_json(self) -> dict[str, Any]:
        """For ``--json`` and for XCom."""
        return {
            "origin": self.record.origin,
            "seal": self.record.seal,
            "size": self.record.size,
            "root": self.record.root,
            "state": str(self.state),
            "sources": {one.name: {"state": str(one.state), "records": one.records} for one in self.manifest.sources},
            "documents": len(self.manifest.documents),
            "folder": str(self.folder) if self.folder else None,
            "sites": {one.site: None if one.error is None else str(one.error) for one in self.copied},
            "tiles": {one.site: None if one.tiles is None else str(one.tiles) for one in self.copied},
            "locked": self.locked,
            "problems": [asdict(one) for one in self.problems],
            "exit_code": self.exit_code,
        }


def audit_settings(runtime: Runtime) -> Audit:
    """The topology's ``audit``. Raises ConfigError: it has none."""
    if runtime.topology.audit is None:
        raise ConfigError(
            "nothing says what is to be collected, and where it is sealed",
            where=str(runtime.topology.path),
            expected="a section `audit`",
            found="none",
            fix="docs/how-to/audit.md shows one",
        )
    return runtime.topology.audit


def open_ledger(runtime: Runtime) -> Ledger:
    """The topology's ledger. Raises ConfigError."""
    settings = audit_settings(runtime)
    stores = {site: PrefixedStore(runtime.store(site, flow="audit"), settings.prefix) for site in settings.sites}
    return Ledger(settings.origin, stores)


def home_of(runtime: Runtime, settings: Audit) -> Path:
    """Where this machine keeps what belongs to the ledger until it is sealed."""
    return home_at(runtime.state_folder, settings.origin)


def export_audit(
    runtime: Runtime,
    *,
    output: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    documents: Iterable[Document] = (),
    opener: Opener = open_source,
    progress: Progress = lambda *_: None,
) -> Exported:
    """Collect what is new of every source, and seal it.

    Args:
        output: an empty folder, or none yet, that gets a copy of the export once it is sealed.
        since: where the first export of a source begins, before `until`; later ones begin where the one before ended.
        until: where it ends, at latest now and not before a source's last one did; by default now.
        documents: what else belongs to it, e.g. a report; names are unique, also without case.
        opener: opens a source of the topology.
        progress: told ``(source, interval, events so far)``.

    Raises:
        ConfigError: there is no ``audit``, a folder is not empty or cannot be written, a document cannot be named so,
            or the window cannot be.
        HoldfastError: it is sealed, but its copy could not be written.
        Refused: another export runs on this machine.
        ClockBehind: the clock is behind what was sealed.
        SealedMeanwhile: somebody else appended; run it again.
        Tampered: the ledger is not what it was.
        ObjectStoreError: its first site does not answer.
    """
    settings = audit_settings(runtime)
    documents = require_documents(documents)
    if output is not None:
        require_place(output)
    ledger, signers = open_ledger(runtime), cosigners(runtime)
    home = home_of(runtime, settings)
    with alone(home):
        locking = Locking(runtime, ledger, home)
        previous = ledger.head()
        require_goes_on(ledger, previous, home)
        if previous is not None:
            require_signed(previous, signers)
            remember(previous, home)
            ledger.repair(previous, _empty(home / "repair"))
        before = Before(ledger, previous)
        if before.manifest is not None and previous is not None:
            # A run that was killed behind the record had not locked it; what is locked already stays as it is.
            locking.lock(before.manifest, previous, ledger.stores)
            locking.lock_again()
        ends = window_ends(before.manifest, settings.sources)
        now = sealing_moment(runtime.clock, previous, ends.values())
        require_window(since, until, ends, now)
        staging, end = _staging(home, previous, until or now)
        keys = open_keys(runtime, settings)
        if keys is not None:
            keys.settle()
        since_late = end - timedelta(hours=settings.look_back_hours)
        back = LookingBack(before, since_late, _empty(staging / "back"))
        collecting = _Collecting(runtime, before, back, staging / "sources", since, end, opener, progress, keys)
        collected, pending = collecting.all(settings.sources)
        if keys is not None:
            number = previous.seal + 1 if previous else 0
            pending += new_certificates(keys.stores[keys.first], number, before.manifest, home)
        sealed = seal(
            _empty(staging / "export"),
            origin=settings.origin,
            collected=collected,
            documents=[*own_documents(runtime), *pending, *documents],
            previous=previous,
            signers=signers,
            retention=retention_of(settings, runtime.clock.now(), runtime.topology.beside(retention.FILE)),
            at=sealing_moment(runtime.clock, previous, [end]),
            by=runtime.holder,
            keep=_kept(staging / "leaves"),
        )
        _timestamp(runtime, settings, sealed)
        exported = _publish(runtime, locking, ledger, previous, sealed, output)
        if keys is not None:
            deliver(keys.stores, home)
        try:
            if output is not None:
                place = f"{ledger.stores[ledger.first].name}/exports/{sealed.record.folder}"
                copy_export(sealed.folder, sealed.manifest, output, place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return exported


def _timestamp(runtime: Runtime, settings: Audit, sealed: Sealed) -> None:
    """Have the checkpoint timestamped, where the topology names an authority."""
    if settings.timestamps is None:
        return
    from holdfast.engine.audit.tlog.timestamps import fetch_timestamp

    roots = runtime.topology.beside(settings.timestamps.roots)
    try:
        pem = roots.read_bytes()
    except OSError as error:
        raise ConfigError(
            "the authority's certificates cannot be read",
            where=str(roots),
            expected="a PEM file",
            found=str(error.strerror),
        ) from None
    note = (sealed.folder / CHECKPOINT).read_bytes()
    response = fetch_timestamp(settings.timestamps.url, note, [pem], clock=runtime.clock)
    (sealed.folder / TIMESTAMP).write_bytes(response)


def _runs(staging: Path) -> Iterator[list[bytes]]:
    with (staging / "leaves").open("rb") as opened:
        while data := opened.read(32 * 32768):
            yield [data[at : at + 32] for at in range(0, len(data), 32)]


def _publish(
    runtime: Runtime, locking: Locking, ledger: Ledger, previous: SealRecord | None, sealed: Sealed, output: Path | None
) -> Exported:
    copied = ledger.publish(sealed.folder, sealed.manifest, sealed.record)
    remember(sealed.record, locking.home)
    locked = locking.lock(sealed.manifest, sealed.record, [one.site for one in copied if one.error is None])
    staging = sealed.folder.parent
    copied = [
        one
        if one.error
        else replace(one, tiles=write_tiles(ledger, one.site, previous, _runs(staging), staging / "old"))
        for one in copied
    ]
    problems = (*where_it_lacks(runtime.topology, copied), *locking.problems())
    return Exported(output, sealed.manifest, sealed.record, tuple(copied), locked, problems)


@dataclass(frozen=True)
class _Collecting:
    """What one export asks of every source."""

    runtime: Runtime
    before: Before
    back: LookingBack
    folder: Path
    since: datetime | None
    end: datetime
    opener: Opener
    progress: Progress
    keys: SubjectKeys | None

    def all(self, sources: Mapping[str, Source]) -> tuple[list[Collected], list[Document]]:
        """What each gave, and what each is to be asked again."""
        collected, pending = [], []
        for name, settings in sources.items():
            before = self.before.of(name)
            one, known = self._one(before, name, settings)
            collected.append(one)
            again = pendings.pending_of(one.units, known, self.end)
            if again:
                data = pendings.encode(name, again)
                pending.append(Document(_pending_path(name), "application/json", data))
            pending += self._carried(before, one)
        return collected, pending

    def _noted(self, before: Before, name: str, wanted: str) -> bytes | None:
        """The newest document of a source by its name: of a unit that a run before this one read, or of the seal."""
        for unit in reversed(list(staged_units(self.folder / name, name))):
            for staged in unit.documents:
                if staged.name == wanted:
                    return staged.file.read_bytes()
        return _noted(before, name, wanted)

    def _carried(self, before: Before, one: Collected) -> Iterator[Document]:
        """How far a source came before, where it did not get anywhere this time."""
        name = one.source.name
        noted = _noted(before, name, POSITION)
        if noted is not None and not any(staged.name == POSITION for unit in one.units for staged in unit.documents):
            yield Document(f"documents/{name}/carried/{POSITION}", "application/json", noted)

    def _one(self, before: Before, name: str, settings: Source) -> tuple[Collected, pendings.Known]:
        """What it gave, and what earlier seals hold of the intervals that were asked again."""
        sources = before.manifest.sources if before.manifest else ()
        last = next((one.window for one in sources if one.name == name), None)
        start = last.end if last else (self.since or self.end - FIRST_WINDOW)
        window = Interval(start, self.end) if start < self.end else None
        earlier = partial(self._noted, before, name)
        try:
            source = self.opener(self.runtime, name, settings, earlier)
        except HoldfastError as error:
            source = _Closed(name, settings.kind, error)
        known, told = dict(_known(before, name)), dict[Interval, tuple[Finding, ...]]()
        new = source.intervals(window) if window else ()
        late, failed = self.back.late(source, known)
        for interval, one in late.items():
            known[interval], told[interval] = one.known, (one.finding,)
        if failed is not None:
            for interval in [*sorted(known), *new][-1:]:
                told[interval] = (*told.get(interval, ()), not_looked_for(self.back.since, failed))
        asked = Asked(source, tuple(dict.fromkeys((*sorted(known), *new))), known, self.keys, told)
        units = tuple(collect(asked, self.folder / name, progress=self.progress))
        return Collected(source, window, units, reached=last.end if last else None), known


def _pending_path(source: str) -> str:
    return f"pending/{source}.json"


def _known(before: Before, source: str) -> pendings.Known:
    noted = before.document(_pending_path(source))
    return pendings.decode(noted, _pending_path(source)) if noted is not None else {}


def _noted(before: Before, source: str, name: str) -> bytes | None:
    """The newest document of this name that a source left in a seal."""
    if before.manifest is None:
        return None
    paths = [one.file.path for one in before.manifest.documents if _is_of(one.file.path, source, name)]
    return before.document(max(paths)) if paths else None


def _is_of(path: str, source: str, name: str) -> bool:
    parts = path.split("/", 3)
    return parts[:2] == ["documents", source] and parts[3:] == [name]


@dataclass(frozen=True)
class _Closed:
    """A source that could not even be opened: every interval of it is unknown."""

    name: str
    kind: str
    error: HoldfastError

    def intervals(self, window: Interval) -> Sequence[Interval]:
        return (window,)

    def read(self, interval: Interval) -> Iterator[Batch]:  # noqa: ARG002 - the interface's
        raise SourceUnreadable(
            "the source cannot be opened",
            where=self.name,
            expected=self.error.expected,
            found=str(self.error),
        )

    def completeness(self, interval: Interval) -> Coverage:
        return Coverage(interval, "none", None, 0, 0, 0)

    def documents(self, interval: Interval) -> Iterator[Document]:  # noqa: ARG002
        yield from ()

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        return build(len(raw), {})


def _kept(file: Path) -> Callable[[bytes], object]:
    file.unlink(missing_ok=True)

    def keep(run: bytes) -> None:
        with file.open("ab") as opened:
            opened.write(run)

    return keep


def _staging(home: Path, previous: SealRecord | None, end: datetime) -> tuple[Path, datetime]:
    """The folder of this seal, and the end of its window: of a run that was killed, the one it had."""
    number = previous.seal + 1 if previous else 0
    folder = home / "staging" / f"{number:08d}-{previous.root[:16] if previous else 'first'}"
    for other in folder.parent.glob("*"):
        if other != folder:  # of a seal that was made since
            shutil.rmtree(other, ignore_errors=True)
    plan = folder / _PLAN
    if plan.exists():
        return folder, datetime.fromisoformat(json.loads(plan.read_text(encoding="utf-8"))["end"])
    _empty(folder)
    draft = folder / f"{_PLAN}.draft"
    draft.write_text(json.dumps({"end": end.isoformat()}), encoding="utf-8")
    draft.rename(plan)
    return folder, end


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One export at a time on this machine. Raises Refused."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                "another export of this ledger runs on this machine",
                where=str(home / "lock"),
                expected="one at a time",
                found="a process that holds the lock",
                fix="Wait for it to end",
            ) from None
        yield
