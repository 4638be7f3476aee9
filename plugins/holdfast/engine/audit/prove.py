"""Prove one event of an export: its bytes, and the hashes from its leaf to the signed checkpoint.

The proof is a C2SP tlog-proof, which other tools read too. It needs nothing else of the export, so one event can be
shown without showing the others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.engine.audit.commitments import event_leaf, protected_leaf
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.folders import new_folder
from holdfast.engine.audit.leaves import export_leaves
from holdfast.engine.audit.manifest import CHECKPOINT, Manifest, Segment
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.privacy.blocks import SALT_BYTES, Protected, find_protected
from holdfast.engine.audit.privacy.certificates import Certificate, certificates_in
from holdfast.engine.audit.privacy.keys import SubjectKey
from holdfast.engine.audit.problems import Answer, not_pinned, of_error, tampered
from holdfast.engine.audit.segments import RAW
from holdfast.engine.audit.tlog.keys import VerifierKey
from holdfast.engine.audit.tlog.merkle import CompactRange, cover, parents
from holdfast.engine.audit.tlog.notes import Checkpoint, Note, Policy, verify_checkpoint
from holdfast.engine.audit.tlog.treeproofs import inclusion_proof, verify_inclusion
from holdfast.engine.audit.verify import Verified
from holdfast.engine.audit.views import SOURCE, VIEW, check_view, view_files
from holdfast.errors import ConfigError, HoldfastError, UnknownName

EVENT, PROOF = "event.raw", "event.tlog-proof"
#: Of a protected event: the salt of its leaf where it was opened, else the leaf itself, in hex.
SALT, LEAF = "event.salt", "event.leaf"


@dataclass(frozen=True)
class Place:
    """Where an event lies.

    Args:
        segment: its segment.
        row: in it.
        leaf: its index in the log.
    """

    segment: Segment
    row: int
    leaf: int


@dataclass(frozen=True)
class ProvenEvent:
    """An event and its proof.

    Args:
        raw: its bytes as received; ``None``: it is protected, and its subject's key is not at hand.
        event: as OCSF, as it was sealed.
        kind: of its source.
        index: of its leaf.
        proof: the audit path, from the leaf's sibling up.
        protected: what is known of it where its subject is protected.
        shredded: the certificate that says that its subject's key is gone.
    """

    raw: bytes | None
    event: dict[str, Any]
    kind: str
    index: int
    size: int
    proof: tuple[bytes, ...]
    protected: Protected | None = None
    shredded: Certificate | None = None


def find_event(folder: Path, manifest: Manifest, wanted: str) -> list[Place]:
    """The places of an event: by its ``metadata.uid``, or ``leaf:N``. More than one: its source gave it twice.

    Raises:
        UnknownName: there is none.
    """
    if wanted.startswith("leaf:") and wanted[5:].isdigit():
        leaf = int(wanted[5:])
        found = [
            Place(one, leaf - one.first_leaf, leaf)
            for one in manifest.segments
            if one.first_leaf <= leaf < one.first_leaf + one.rows
        ]
    else:
        found = [place for one in manifest.segments for place in _by_uid(folder, one, wanted)]
    if not found:
        raise UnknownName(
            "there is no such event in the export",
            where=str(folder),
            expected="an event's `metadata.uid`, or leaf:N",
            found=wanted[:200],
        )
    return found


def _by_uid(folder: Path, segment: Segment, uid: str) -> Iterator[Place]:
    at = 0
    reader = pq.ParquetFile(folder / segment.events.path)
    for batch in reader.iter_batches(columns=["metadata.uid"], batch_size=100_000, use_threads=False):
        uids = pc.struct_field(batch.column(0), [0])
        for row in pc.indices_nonzero(pc.equal(uids, uid)).to_pylist():
            yield Place(segment, at + row, segment.first_leaf + at + row)
        at += len(batch)


def prove_event(
    folder: Path,
    verified: Verified,
    place: Place,
    *,
    subject_keys: Mapping[bytes, SubjectKey] | None = None,
    certificates: Iterable[Certificate] = (),
) -> ProvenEvent:
    """The proof of an event of an export that was verified.

    Args:
        subject_keys: by id: open it where it is protected.
        certificates: of shredding, beside those the export has itself.

    Raises:
        Tampered: the export is not whole, so nothing of it can be proven.
    """
    manifest = verified.sealed("can be proven")
    row = _row(folder / place.segment.events.path, place.row)
    raw = row.pop(RAW)
    proof = proofs_of(folder, manifest, verified.left, [place.leaf])[place.leaf]
    kind = next(source.kind for source in manifest.sources if source.name == place.segment.source)
    if raw is not None or place.segment.subjects is None:
        return ProvenEvent(raw, as_event(row), kind, place.leaf, manifest.size, proof)
    found = find_protected(folder / place.segment.subjects.path, place.row, subject_keys)
    known = [*certificates_in(folder, manifest), *certificates]
    shredded = next((one for one in known if found.key_id.hex() in one.keys), None)
    return ProvenEvent(found.raw, as_event(row), kind, place.leaf, manifest.size, proof, found, shredded)


def proofs_of(
    folder: Path, manifest: Manifest, left: CompactRange, leaves: Iterable[int]
) -> dict[int, tuple[bytes, ...]]:
    """The inclusion proofs of leaves of a verified export, from one pass over all of its leaves.

    Memory is for one run of leaves and the hashes of the proofs.

    Args:
        left: the compact range of what was sealed before it.
        leaves: indexes of the export's own leaves.
    """
    wanted: defaultdict[int, set[int]] = defaultdict(set)

    def note(level: int, index: int) -> bytes:
        wanted[level].add(index)
        return bytes(32)

    asked = list(leaves)
    for leaf in asked:
        inclusion_proof(leaf, manifest.size, note)
    nodes = _nodes(export_leaves(folder, manifest), left, {level: sorted(found) for level, found in wanted.items()})
    return {leaf: inclusion_proof(leaf, manifest.size, lambda level, index: nodes[level, index]) for leaf in asked}


def _nodes(
    runs: Iterable[list[bytes]], left: CompactRange, wanted: Mapping[int, Sequence[int]]
) -> dict[tuple[int, int], bytes]:
    """The wanted perfect subtrees, by level and index, of leaves that come in runs.

    Args:
        wanted: per level the indexes, ascending.
    """
    found = dict(zip(cover(0, left.end), left.hashes, strict=True))
    #: Per level the subtree that waits for its right neighbour.
    waiting = {level: node for (level, _), node in found.items()}
    at = left.end
    for run in runs:
        row, first, level = list(run), at, 0
        while row:
            if first & 1:
                row.insert(0, waiting.pop(level))
                first -= 1
            indexes = wanted.get(level, ())
            for index in indexes[bisect_left(indexes, first) : bisect_left(indexes, first + len(row))]:
                found[level, index] = row[index - first]
            if len(row) & 1:
                waiting[level] = row.pop()
            row, first, level = parents(row), first >> 1, level + 1
        at += len(run)
    return found


def _row(file: Path, row: int) -> dict[str, Any]:
    reader = pq.ParquetFile(file)
    at = 0
    for group in range(reader.num_row_groups):
        count = reader.metadata.row_group(group).num_rows
        if row < at + count:
            table = reader.read_row_group(group, use_threads=False).slice(row - at, 1)
            found: dict[str, Any] = table.to_pylist()[0]
            return found
        at += count
    raise Tampered("the segment has fewer events", where=str(file), expected=f"more than {row}", found=str(at))


def write_proof(proven: ProvenEvent, export: Path, folder: Path) -> Path:
    """Write an event and its proof into an empty folder.

    Raises:
        ConfigError: it is not empty, or cannot be written.
    """
    from holdfast.engine.audit.tlog.proofs import format_proof

    files: dict[str, bytes] = {}
    if proven.raw is not None:
        files = {EVENT: proven.raw, **view_files(proven.kind, proven.raw, proven.event)}
    if proven.protected is not None and proven.protected.salt is not None:
        files[SALT] = proven.protected.salt
    elif proven.protected is not None:
        files[LEAF] = proven.protected.leaf.hex().encode() + b"\n"
    files[PROOF] = format_proof(proven.index, proven.proof, (export / CHECKPOINT).read_bytes())
    with new_folder(folder) as made:
        for name, data in files.items():
            (made / name).write_bytes(data)
    return folder


def check_proof(folder: Path, *, trusted: Sequence[VerifierKey], needed: int | None = None) -> Answer:
    """Check a proof that `write_proof` wrote: the event and its view, the path, the checkpoint's signatures. Offline.

    Raises:
        ConfigError: there is no proof here, or so many keys cannot have signed.
    """
    from holdfast.engine.audit.tlog.proofs import Proof

    answer = Answer(str(folder))
    try:
        leaf, encoded = _leaf_in(folder), (folder / PROOF).read_bytes()
        _check_rest(folder, answer)
    except OSError as error:
        raise ConfigError(
            "there is no proof here",
            where=str(folder),
            expected=f"{EVENT} (or {LEAF}) and {PROOF}",
            found=str(error.strerror),
            fix="Name the folder `holdfast audit prove --output` wrote",
        ) from None
    policy = Policy.trusting(trusted, needed) if trusted else None
    try:
        proof = Proof.parse(encoded)
        checkpoint = Checkpoint.parse(Note.parse(proof.checkpoint).text)
        verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
        answer.origin, answer.size, answer.root = checkpoint.origin, checkpoint.size, checkpoint.root.hex()
        if policy:
            _, verified = verify_checkpoint(proof.checkpoint, checkpoint.origin, policy)
            answer.signed_by = [key.name for key in verified.signed_by]
        else:
            answer.add(not_pinned(str(folder)))
    except HoldfastError as error:
        answer.add(of_error(error, "proof", str(folder / PROOF)))
    return answer


def _check_rest(folder: Path, answer: Answer) -> None:
    """What lies beside the event, or its leaf, and the proof."""
    there = {one.name for one in folder.iterdir()}
    allowed = {PROOF, EVENT, SALT, SOURCE, VIEW} if EVENT in there else {PROOF, LEAF}
    for name in sorted(there - allowed):
        answer.add(tampered("file-added", "nothing proves this file", name))
    if EVENT in there:
        files = {name: (folder / name).read_bytes() for name in there & {SOURCE, VIEW}}
        check_view(files, (folder / EVENT).read_bytes(), answer)
    else:
        answer.notes.append("Unknown: what the event says; its subject is protected, and only its leaf was given")


def _leaf_in(folder: Path) -> bytes:
    """The leaf of the event in a proof's folder. Raises OSError, ConfigError."""
    try:
        raw = (folder / EVENT).read_bytes()
    except FileNotFoundError:
        text = (folder / LEAF).read_text(encoding="ascii", errors="replace")
        try:
            return bytes.fromhex(text.strip())
        except ValueError:
            raise ConfigError(
                "this is no leaf", where=str(folder / LEAF), expected="64 hex digits", found=text[:80]
            ) from None
    if not (folder / SALT).exists():
        return event_leaf(raw)
    salt = (folder / SALT).read_bytes()
    if len(salt) != SALT_BYTES:  # else bytes of the event could be passed off as its salt's
        raise ConfigError(
            "this is no salt", where=str(folder / SALT), expected=f"{SALT_BYTES} bytes", found=f"{len(salt)} bytes"
        )
    return protected_leaf(salt, raw)
