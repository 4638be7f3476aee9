"""Holdfast's own events, from the records that lie at its sites: none but the reports of cost is written for this.

A record belongs to the interval in which its first copy arrived, by that store's clock: what a machine without a
network wrote down and shipped later is in the interval of its arrival, and its own time says when it happened. The
same record at several sites is one event, which names them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from holdfast.clock import Clock, SystemClock
from holdfast.engine.audit.interface import Batch, Coverage, Document, Finding, Interval, SourceObject, State
from holdfast.engine.audit.lineage import Checks, Lineage
from holdfast.engine.audit.sources import holdfast_proofs as proofs
from holdfast.engine.audit.sources.filling import Filling
from holdfast.engine.audit.sources.holdfast_copies import Copy, Record, Survey, places_of, read_copies, survey
from holdfast.engine.audit.sources.holdfast_kinds import proven
from holdfast.engine.config.audit import HoldfastSource
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError, PermissionRefused
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.quality.results import QualityResult, prefix_of
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.records import CommitRecord

_BATCH_RECORDS = 50_000
_FINE = State.COMPLETE
#: Lower-case, with a moment before it or not, and too long for no file system.
_OWN_NAME = re.compile(r"(?!\.|\d{8}t)(\d{8}T\d{6}(\.\d{6})?Z)?[a-z0-9._=-]{1,150}")
_EVIDENCE = ("journal.json", "report.html", "evidence.dsse.json")


@dataclass(frozen=True)
class Vault:
    """A vault's log.

    Args:
        stores: by site, the vault's own first; each with keys relative to the vault's folder.
        witnesses: by site the buckets that keep what they saw of it.
    """

    stores: Mapping[str, ObjectStore]
    witnesses: Mapping[str, ObjectStore] = field(default_factory=dict)


@dataclass
class _Run:
    survey: Survey
    selected: list[Record]
    facts: proofs.Facts = field(default_factory=proofs.Facts)
    read: int = 0
    records: int = 0
    findings: list[Finding] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    commits: dict[str, CommitRecord] = field(default_factory=dict)


class HoldfastEvents:
    """What Holdfast did, as its records say.

    Args:
        name: of the source.
        sites: by name the buckets that are read.
        vaults: by name.
        subjects: per group the folders whose fork records its epochs leave: ``snapshots/<dataset>``.
        clock: says whether an interval is over.
        left_out: sites of the topology that are not read: what is missing may lie there.
        lineage: makes the events of what was published; ``None``: none are made.
        drill_keys: by id, those that may sign drills' evidence; none: any may.
    """

    kind = "holdfast"

    def __init__(
        self,
        name: str,
        sites: Mapping[str, ObjectStore],
        *,
        vaults: Mapping[str, Vault] | None = None,
        subjects: Mapping[str, Sequence[str]] | None = None,
        clock: Clock | None = None,
        left_out: Sequence[str] = (),
        lineage: Lineage | None = None,
        drill_keys: Collection[str] = (),
    ) -> None:
        self.name = name
        self._sites = dict(sites)
        self._vaults = dict(vaults or {})
        self._subjects = dict(subjects or {})
        self._clock = clock or SystemClock()
        self._left_out = tuple(left_out)
        self._lineage = lineage
        self._drill_keys = frozenset(drill_keys)
        self._runs: dict[Interval, _Run] = {}

    def intervals(self, window: Interval) -> Sequence[Interval]:
        """The window itself: its chains reach over any border within it."""
        return (window,)

    def read(self, interval: Interval) -> Iterator[Batch]:
        """The records that arrived in it, oldest first. What cannot be read is told by `completeness`."""
        found = survey(places_of(self._sites, {name: vault.stores for name, vault in self._vaults.items()}))
        found.left_out = self._left_out
        selected = sorted(
            (record for record in found.records.values() if record.arrived_at in interval),
            key=lambda record: (record.arrived_at, record.name),
        )
        run = self._runs[interval] = _Run(found, selected)
        run.findings += [_unread(site, error) for site, error in sorted(found.unread.items())]
        batch = Filling(most_records=_BATCH_RECORDS)
        for record in selected:
            for source_object, records in self._contents(record, run):
                batch.add(source_object, records)
                run.records += len(records)
                if batch.is_full:
                    yield batch.take()
        if batch.objects:
            yield batch.take()
        self._prove(run, interval)

    def completeness(self, interval: Interval) -> Coverage:
        """By the chains the records form, and by each one's own proof."""
        run = self._runs[interval]
        missing = sum(finding.state is State.GAP for finding in run.findings)
        return Coverage(
            interval,
            "chains",
            len(run.selected) + missing,
            run.read,
            run.read,
            run.records,
            tuple(run.findings),
        )

    def documents(self, interval: Interval) -> Iterator[Document]:
        """Evidence of drills, what the sites' registers hold now, and the lineage of what was published."""
        yield from self._runs[interval].documents

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        """The records as OCSF, see `holdfast.engine.audit.sources.holdfast_events`."""
        from holdfast.engine.audit.sources.holdfast_events import normalise

        return normalise(raw)

    # -- one record -------------------------------------------------------------------------------------------

    def _contents(self, record: Record, run: _Run) -> Iterator[tuple[SourceObject, list[bytes]]]:
        """A record's content; each of them where its copies differ."""
        contents, unread = self._copies(record, run)
        if not contents and not unread:
            run.findings.append(Finding("record-gone", "it was listed, and gone when it was read", record.name))
        if len(contents) > 1:
            run.findings.append(_differ(record, contents))
        for number, (data, copies) in enumerate(contents.items()):
            if why := proven(record.kind, record.name, data):
                run.findings.append(Finding("record-damaged", f"it is not what was written: {why}", record.name))
            elif record.kind.name == "commit":
                run.commits.setdefault(record.name, CommitRecord.model_validate_json(data))
            if number == 0:
                run.facts.note(record, data)
                run.read += 1
            name = record.name if number == 0 else f"{record.name}@{copies[0].place.site}"
            yield _as_object(name, record, data, copies), _records(record, data)

    def _copies(self, record: Record, run: _Run) -> tuple[dict[bytes, list[Copy]], Mapping[str, ObjectStoreError]]:
        """As `read_copies`; a site that does not answer is told once."""
        contents, unread = read_copies(record)
        for site, error in unread.items():
            if site not in run.survey.unread:
                run.survey.unread[site] = error
                run.findings.append(_unread(site, error))
        return contents, unread

    # -- what is proven when all is read ----------------------------------------------------------------------

    def _prove(self, run: _Run, interval: Interval) -> None:
        names = [record.name for record in run.selected]
        run.findings += proofs.commit_parents(run.survey, run.facts)
        run.findings += proofs.epochs(run.survey, run.facts)
        run.findings += proofs.decisions(run.survey, names, run.facts, _first_content, self._clock.now())
        for name, vault in self._vaults.items():
            run.findings += proofs.vault_log(name, vault.stores, vault.witnesses)
        self._registers(run)
        self._drills(run)
        if self._lineage is not None:
            self._add_lineage(run, interval, self._lineage)
        if self._clock.now() < interval.end:
            run.findings.append(
                Finding("window-open", f"the window ends at {interval.end}: more may arrive", state=State.LATE)
            )

    def _registers(self, run: _Run) -> None:
        """Registers are changed in place: their content is evidence of a state, and no event."""
        held: dict[str, list[int]] = defaultdict(list)
        for site, store in self._sites.items():
            try:
                for info in store.list("authority/"):
                    group = info.key.removeprefix("authority/")
                    data = store.get(info.key)
                    name = _document_name(f"authority/{group}/{site}.json")
                    about = {"e_tag": info.version.e_tag or "", "modified_at": info.modified_at.isoformat()}
                    run.documents.append(Document(name, "application/json", data, about))
                    held[group].append(_epoch(data))
            except ObjectNotFound:
                continue
            except ObjectStoreError as error:
                if site not in run.survey.unread:
                    run.findings.append(_unread(site, error))
        for group, epochs in sorted(held.items()):
            # What one register holds may not be committed: the newest epoch that most of them are at is.
            committed = sorted(epochs, reverse=True)[len(epochs) // 2]
            run.findings += proofs.committed_epochs(run.survey, group, self._subjects.get(group, ()), committed)

    def _drills(self, run: _Run) -> None:
        """Evidence of drills whose journal arrived: each set of files that some site has is kept whole and verified."""
        for record in run.selected:
            if record.kind.name != "drill":
                continue
            folder = record.name.rpartition("/")[0]
            known: list[dict[str, bytes]] = []
            for copy in record.copies:
                files, site = _evidence_at(copy, folder), copy.place.site
                if files is None:
                    detail = "the evidence could not be read there"
                    run.findings.append(Finding("site-unreachable", detail, f"{folder} at {site}", State.UNKNOWN))
                    continue
                if files in known:
                    continue
                inside = f"{folder}/at-{site}" if known else folder
                known.append(files)
                for file, data in files.items():
                    kind = "text/html" if file.endswith(".html") else "application/json"
                    run.documents.append(Document(_document_name(f"{inside}/{file}"), kind, data))
                if (why := self._invalid(files)) is not None:
                    run.findings.append(Finding("evidence-invalid", why, f"{folder} at {site}"))

    def _add_lineage(self, run: _Run, interval: Interval, lineage: Lineage) -> None:
        """Per dataset and model the events of all snapshots that arrived, also of a window that is read again."""
        results = defaultdict[str, list[Record]](list)
        for record in run.survey.records.values():
            if record.kind.name == "quality":
                results[record.name.rpartition("-")[0]].append(record)
        lines = defaultdict[str, list[bytes]](list)
        for name, commit in sorted(run.commits.items()):
            checks = self._checks(run, results[prefix_of(commit.dataset, commit.manifest_digest)], commit)
            suite = lineage.suite_of(commit.dataset)
            if suite is not None and not checks.results:
                told = f"no result of {suite} is kept of this version that can be read"
                run.findings.append(Finding("quality-missing", told, name, _FINE))
            lines[commit.dataset].append(lineage.line(commit, checks))
        for dataset, found in lines.items():
            file = _document_name(f"lineage/{dataset}/{interval.start:%Y%m%dT%H%M%S.%fZ}.jsonl")
            run.documents.append(Document(file, "application/x-ndjson", b"".join(found)))

    def _checks(self, run: _Run, records: Sequence[Record], commit: CommitRecord) -> Checks:
        """What suites said of a version's bytes, at any time. One that is damaged is told in its own window."""
        good, bad = list[QualityResult](), 0
        for record in records:
            contents, unread = self._copies(record, run)
            bad += len(unread)
            for data in contents:
                if proven(record.kind, record.name, data) is None:
                    good.append(QualityResult.model_validate_json(data))
                else:
                    bad += 1
        return Checks(tuple(one for one in good if one.manifest_digest == commit.manifest_digest), bad)

    def _invalid(self, files: Mapping[str, bytes]) -> str | None:
        """Why the files prove nothing, as `holdfast drill verify` judges; ``None``: they do."""
        from holdfast.engine.drill.evidence import EvidenceInvalid, verify_evidence

        with TemporaryDirectory(prefix="holdfast-evidence-") as place:
            for file, data in files.items():
                (Path(place) / file).write_bytes(data)
            try:
                found = verify_evidence(Path(place))
            except EvidenceInvalid as error:
                # Its own words name a folder of this machine.
                return f"the evidence does not verify: {error.what}; expected {error.expected}"
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                return f"the evidence cannot be read: {type(error).__name__}"
        if self._drill_keys and found.key_id not in self._drill_keys:
            return f"the evidence is signed by key {found.key_id}, which is not trusted for drills"
        return None


def _records(record: Record, data: bytes) -> list[bytes]:
    if not record.kind.lines:
        return [data]
    lines = data.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def _as_object(name: str, record: Record, data: bytes, copies: list[Copy]) -> SourceObject:
    digest = hashlib.sha256(data).hexdigest()
    first = copies[0].info
    sites = sorted({copy.place.site for copy in copies})
    return SourceObject(
        name,
        len(data),
        digest,
        digest,
        suffix=b"\n" if record.kind.lines and data.endswith(b"\n") else b"",
        metadata={"kind": record.kind.name, "sites": ",".join(sites)},
        version=first.version.version or first.version.e_tag,
        modified_at=first.modified_at,
    )


def _differ(record: Record, contents: Mapping[bytes, list[Copy]]) -> Finding:
    sites = "; ".join(", ".join(copy.place.site for copy in copies) for copies in contents.values())
    if record.kind.each_site:
        return Finding("written-twice", f"sites have a {record.kind.name} of their own: {sites}", record.name, _FINE)
    writers = {_write_id(data) for data in contents}
    if record.kind.once or None in writers or len(writers) < len(contents):
        return Finding("copies-differ", f"what one writer wrote differs between sites: {sites}", record.name)
    what = f"two writers each wrote a {record.kind.name} of this name, as a machine that was cut off does: {sites}"
    return Finding("written-twice", what, record.name, _FINE)


def _write_id(data: bytes) -> str | None:
    try:
        found = json.loads(data)["write_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(found)


def _evidence_at(copy: Copy, folder: str) -> dict[str, bytes] | None:
    """The files of evidence one site has; ``None``: it does not say."""
    files = {}
    for file in _EVIDENCE:
        try:
            files[file] = copy.place.store.get(f"{folder}/{file}")
        except ObjectNotFound:
            continue
        except ObjectStoreError:
            return None
    return files


def _document_name(key: str) -> str:
    """A key as the name of a document: of two keys never the same one, on systems that ignore case too."""
    return "/".join(_part(part) for part in key.split("/"))


def _part(part: str) -> str:
    """As it is where we name things so; else in characters that a document may have, with its digest."""
    if _OWN_NAME.fullmatch(part):
        return part
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{re.sub(r'[^a-z0-9_=-]', '_', part.lower()[:100])}.{digest}"


def _first_content(record: Record) -> bytes | None:
    contents, _ = read_copies(record)
    return next(iter(contents), None)


def _epoch(data: bytes) -> int:
    try:
        value = json.loads(data)["value"]
        return int(value["epoch"]) if value else 0
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _unread(site: str, error: ObjectStoreError) -> Finding:
    code = "site-refused" if isinstance(error, PermissionRefused) else "site-unreachable"
    return Finding(code, f"what only {site} has is unknown: {error}", site, State.UNKNOWN)


def open_holdfast(runtime: Runtime, name: str, settings: HoldfastSource) -> HoldfastEvents:
    """The source of a topology: its sites, or those it names, and the vaults that lie there.

    Raises:
        ConfigError: a site or its connection is not there.
    """
    from holdfast.engine.audit.signing import drill_keys
    from holdfast.engine.pipeline.vaults.opening import places_of as vault_sites
    from holdfast.engine.pipeline.vaults.opening import store_below, witness_stores

    topology = runtime.topology
    sites = settings.sites or tuple(topology.sites)
    vaults = {
        vault: Vault(
            {site: store_below(runtime, vault, site) for site in vault_sites(runtime, vault) if site in sites},
            witness_stores(runtime, vault),
        )
        for vault in topology.vaults
    }
    subjects = {
        group: [f"snapshots/{one}" for one in (*settings.datasets, *(topology.job(j).model for j in settings.training))]
        for group, settings in topology.groups.items()
    }
    return HoldfastEvents(
        name,
        runtime.stores(sites),
        vaults=vaults,
        subjects=subjects,
        clock=runtime.clock,
        left_out=sorted(set(topology.sites) - set(sites)),
        lineage=Lineage(topology),
        drill_keys=drill_keys(runtime),
    )
