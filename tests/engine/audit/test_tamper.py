"""Whatever is changed in an export is found, with what and where; nothing that was not changed is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from audit_world import HOUR, AuditWorld, FakeSource, event
from holdfast.clock import FakeClock
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.ledger import reference
from holdfast.engine.audit.manifest import CHECKPOINT, MANIFEST, RANGE, parse_manifest
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.segments import RAW
from holdfast.engine.audit.tlog.keys import LocalSigner, VerifierKey
from holdfast.engine.audit.tlog.notes import Checkpoint, Note, cosigned, sign
from holdfast.engine.audit.verify import verify_export
from holdfast.engine.snapshot.documents import canonical


class Exports:
    """Three exports of one log, once for all tests; a test gets a copy to damage."""

    def __init__(self, folder: Path) -> None:
        hours = [[[event(100 * hour + n) for n in range(30)], [event(100 * hour + 50)]] for hour in range(9)]
        self.world = AuditWorld(folder, FakeSource(hours))
        self.folders: list[Path] = []
        for _ in range(3):
            done = self.world.export()
            assert done.folder is not None
            self.folders.append(done.folder)
            self.world.clock.advance(2 * HOUR.total_seconds())
        self.key = self.world.key

    def verify(self, folder: Path) -> Answer:
        return verify_export(folder, trusted=[self.key]).answer


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def copy(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports.folders[1], tmp_path / "copy"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_tampered(answer: Answer, code: str | None = None, where: str | None = None) -> None:
    assert answer.verdict == "tampered", answer.problems
    assert answer.exit_code == 5
    codes = {problem.code for problem in answer.problems}
    assert code is None or code in codes, answer.problems
    assert where is None or any(where in problem.where for problem in answer.problems), answer.problems


# -- any change of any byte of any file -----------------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn, data: bytes) -> bytes:
    """Another content of a file: bits flipped, bytes cut, added, repeated or moved."""
    kind = draw(st.sampled_from(("flip", "cut", "insert", "repeat", "swap", "truncate", "append")))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    length = draw(st.integers(1, 64))
    match kind:
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        case "cut":
            return data[:at] + data[at + length :]
        case "insert":
            return data[:at] + draw(st.binary(min_size=1, max_size=32)) + data[at:]
        case "repeat":
            return data[: at + length] + data[at:]
        case "swap":
            other = draw(st.integers(0, len(data) - 1))
            first, second = sorted((at, other))
            return (
                data[:first]
                + data[second : second + 1]
                + data[first + 1 : second]
                + data[first : first + 1]
                + data[second + 1 :]
            )
        case "truncate":
            return data[:at]
        case _:
            return data + draw(st.binary(min_size=1, max_size=32))


def assert_a_change_is_found(exports: Exports, copy: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(files_of(copy)))
    original = file.read_bytes()
    changed = data.draw(changes(original))
    assume(changed != original)
    file.write_bytes(changed)
    try:
        assert_tampered(exports.verify(copy), where=file.relative_to(copy).as_posix())
    finally:
        file.write_bytes(original)


MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(data=st.data())
def test_no_change_of_a_file_is_missed(exports: Exports, copy: Path, data: st.DataObject) -> None:
    assert_a_change_is_found(exports, copy, data)


@pytest.mark.slow
@settings(MANY, max_examples=3000)
@given(data=st.data())
def test_no_change_of_a_file_is_missed_at_length(exports: Exports, copy: Path, data: st.DataObject) -> None:
    assert_a_change_is_found(exports, copy, data)


def test_a_manifest_of_another_log_is_told_as_the_manifest_or_the_checkpoint(exports: Exports, copy: Path) -> None:
    row = json.loads((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_bytes(canonical(row | {"origin": "example.com/another"}))
    assert_tampered(exports.verify(copy), where=MANIFEST)


@pytest.mark.parametrize("write", [str.upper, lambda digits: f"{digits[:2]} {digits[2:]}"])
def test_a_range_whose_hashes_are_written_otherwise_is_refused(
    exports: Exports, copy: Path, write: Callable[[str], str]
) -> None:
    row = json.loads((copy / "range.json").read_bytes())
    row["before"][0] = write(row["before"][0])
    (copy / "range.json").write_bytes(canonical(row))
    assert_tampered(exports.verify(copy), where="range.json")


def test_what_was_not_changed_is_fine(exports: Exports, copy: Path) -> None:
    assert exports.verify(copy).problems == []


# -- an attacker who makes everything consistent but what is signed ------------------------------------------------


def rows_of(folder: Path) -> tuple[Path, pa.Table]:
    (file,) = [path for path in files_of(folder) if path.name.endswith(".parquet") and "objects" not in path.name]
    return file, pq.read_table(file)


def rename_manifest(folder: Path, **changed: object) -> None:
    """Make the manifest name what lies there now."""
    row = json.loads((folder / MANIFEST).read_bytes())
    row.update(changed)
    for part in (
        *(one[kind] for one in row["segments"] for kind in ("events", "objects")),
        *(d["file"] for d in row["documents"]),
    ):
        part.update(reference(folder, part["path"]).model_dump())
    (folder / MANIFEST).write_bytes(canonical(row))


def flip(table: pa.Table) -> pa.Table:
    raw = table.column(RAW).to_pylist()
    raw[3] = raw[3].replace(b"user-", b"User-")
    return table.set_column(
        table.schema.get_field_index(RAW), table.schema.field(RAW), pa.array(raw, pa.large_binary())
    )


CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "flip": flip,
    "drop": lambda table: pa.concat_tables([table.slice(0, 5), table.slice(6)]),
    "duplicate": lambda table: pa.concat_tables([table.slice(0, 6), table.slice(5)]),
    "reorder": lambda table: pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)]),
    "truncate": lambda table: table.slice(0, table.num_rows - 1),
    "a column": lambda table: table.set_column(
        table.schema.get_field_index("time"), table.schema.field("time"), pa.array([1] * table.num_rows, pa.int64())
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_segment_is_named(exports: Exports, copy: Path, change: str) -> None:
    file, table = rows_of(copy)
    pq.write_table(CHANGES[change](table), file, compression="zstd")
    assert_tampered(exports.verify(copy), "file-differs", "segments/fake/000000.parquet")


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_made_to_fit_is_not_the_sealed_one(exports: Exports, copy: Path, change: str) -> None:
    file, table = rows_of(copy)
    pq.write_table(CHANGES[change](table), file, compression="zstd")
    rename_manifest(copy)
    assert_tampered(exports.verify(copy), "manifest-differs", MANIFEST)


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"drop", "duplicate", "truncate", "a column"}))
def test_a_range_made_to_fit_too_is_not_the_signed_root(exports: Exports, copy: Path, change: str) -> None:
    """The attacker computes everything anew; only the signature is out of reach."""
    from holdfast.engine.audit.commitments import manifest_leaf
    from holdfast.engine.audit.leaves import export_leaves
    from holdfast.engine.audit.tlog.merkle import CompactRange

    file, table = rows_of(copy)
    pq.write_table(CHANGES[change](table), file, compression="zstd")
    rename_manifest(copy)
    manifest = parse_manifest((copy / MANIFEST).read_bytes(), "test")
    row = json.loads((copy / RANGE).read_bytes())
    leaves = CompactRange(0, manifest.first_leaf, tuple(bytes.fromhex(one) for one in row["left"]))
    *others, last = export_leaves(copy, manifest)
    for run in others:
        leaves = leaves.append(run)
    assert last == [manifest_leaf((copy / MANIFEST).read_bytes())]
    row["before"] = [one.hex() for one in leaves.hashes]
    (copy / RANGE).write_bytes(canonical(row))
    assert_tampered(exports.verify(copy), "manifest-differs", MANIFEST)
    # With a key of their own they can sign it; it is not the one that is trusted.
    root = leaves.append(last).root
    forged = LocalSigner.of(manifest.origin, Ed25519PrivateKey.generate())
    rename_manifest(copy, signers=[str(forged.key)])
    leaf = manifest_leaf((copy / MANIFEST).read_bytes())
    root = leaves.append([leaf]).root
    (copy / CHECKPOINT).write_bytes(sign(Checkpoint(manifest.origin, manifest.size, root).text, [forged]))
    answer = exports.verify(copy)
    assert_tampered(answer, "not-signed", CHECKPOINT)
    assert verify_export(copy, trusted=[forged.key]).answer.problems == []  # all else fits: only the key tells


def test_segments_that_changed_places_are_found(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(3)]))
    world.topology.write_text(
        world.topology.read_text().replace("kind: holdfast", "kind: holdfast\n    other:\n      kind: holdfast")
    )
    other = FakeSource([[[event(100 + n)]] for n in range(3)], name="other")
    from holdfast.engine.audit.export import export_audit

    opened = {"fake": world.source, "other": other}
    done = export_audit(
        world.runtime(), output=tmp_path / "out", since=world.clock.now() - 3 * HOUR, opener=lambda _r, n, *_: opened[n]
    )
    assert done.folder is not None
    assert world.verify(done.folder).problems == []
    first, second = (done.folder / "segments" / name / "000000.parquet" for name in ("fake", "other"))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    answer = world.verify(done.folder)
    assert_tampered(answer, "file-differs", "segments/fake")
    assert_tampered(answer, "file-differs", "segments/other")


# -- files, signatures, history -------------------------------------------------------------------------------------


def test_a_file_more_is_found(exports: Exports, copy: Path) -> None:
    (copy / "documents").mkdir(exist_ok=True)
    (copy / "documents" / "extra.json").write_text("{}")
    assert_tampered(exports.verify(copy), "file-added", "documents/extra.json")


@pytest.mark.parametrize("name", ["coverage/fake.json", "segments/fake/000000.parquet", "topology/holdfast.yaml"])
def test_a_file_less_is_found(exports: Exports, copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert_tampered(exports.verify(copy), "file-missing", name)


def test_a_link_is_no_file(exports: Exports, copy: Path, tmp_path: Path) -> None:
    target = copy / "coverage" / "fake.json"
    held = tmp_path / "elsewhere.json"
    target.rename(held)
    target.symlink_to(held)
    assert_tampered(exports.verify(copy), "not-a-file", "coverage/fake.json")


def test_a_stripped_signature_is_found(exports: Exports, copy: Path) -> None:
    note = Note.parse((copy / CHECKPOINT).read_bytes())
    stranger = LocalSigner.of("example.com/stranger", Ed25519PrivateKey.generate())
    only = cosigned(Note(note.text, ()), [stranger])
    (copy / CHECKPOINT).write_bytes(bytes(only))
    assert_tampered(exports.verify(copy))


def test_a_wrong_key_is_found(exports: Exports, copy: Path) -> None:
    other = LocalSigner.of(exports.key.name, Ed25519PrivateKey.generate())
    assert_tampered(verify_export(copy, trusted=[other.key]).answer, "not-signed")


def test_a_signature_of_another_algorithm_is_not_the_key_s(exports: Exports, copy: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    note = Note.parse((copy / CHECKPOINT).read_bytes())
    other = LocalSigner.of(exports.key.name, ec.generate_private_key(ec.SECP256R1()))
    (copy / CHECKPOINT).write_bytes(bytes(cosigned(Note(note.text, ()), [other])))
    assert_tampered(exports.verify(copy))


def test_an_old_checkpoint_replayed_is_found(exports: Exports, copy: Path) -> None:
    (copy / CHECKPOINT).write_bytes((exports.folders[0] / CHECKPOINT).read_bytes())
    assert_tampered(exports.verify(copy), "checkpoint-differs")


def test_a_clock_that_went_back_is_found(exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.engine.audit.export.require_window", lambda *_: None)
    monkeypatch.setattr("holdfast.engine.audit.export.sealing_moment", lambda clock, *_: clock.now())
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(9)]))
    world.export()
    world.clock.advance(HOUR.total_seconds())
    later = world.runtime().clock.now()
    world.clock = FakeClock(later - 5 * HOUR)
    done = world.export(until=later)
    assert done.folder is not None
    answer = world.verify(done.folder)
    assert_tampered(answer, "clock-went-back")
    assert_tampered(answer, "from-the-future")


# -- several exports ------------------------------------------------------------------------------------------------


def whole(exports: Exports, folders: list[Path], **more: object) -> Answer:
    return verify_exports(folders, trusted=[exports.key], **more)[0]  # type: ignore[arg-type]


def test_all_exports_are_one_log(exports: Exports) -> None:
    answer = whole(exports, list(reversed(exports.folders)))
    assert answer.problems == []
    assert answer.counts["events"] == 7 * 31


def test_a_missing_export_is_incomplete(exports: Exports) -> None:
    answer = whole(exports, [exports.folders[0], exports.folders[2]])
    assert (answer.verdict, answer.exit_code) == ("incomplete", 6)
    assert [problem.code for problem in answer.problems] == ["export-missing"]


def checkpoint_of(folder: Path) -> Checkpoint:
    return Checkpoint.parse(Note.parse((folder / CHECKPOINT).read_bytes()).text)


def test_a_truncated_tail_is_found_by_who_remembers(exports: Exports) -> None:
    newest = checkpoint_of(exports.folders[2])
    assert_tampered(whole(exports, exports.folders[:2], remembered=newest), "rolled-back")
    assert whole(exports, exports.folders, remembered=newest).problems == []
    assert whole(exports, exports.folders[1:], remembered=checkpoint_of(exports.folders[0])).problems == []


def test_what_nothing_links_is_unknown(exports: Exports) -> None:
    answer = whole(exports, exports.folders[2:], remembered=checkpoint_of(exports.folders[0]))
    assert [problem.code for problem in answer.problems] == ["not-linked"]
    assert answer.exit_code == 7


@pytest.fixture
def fork(exports: Exports, tmp_path: Path) -> Path:
    """Another second export, sealed with the right key: of somebody who has it and forked the log."""
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(9)]))
    world.environ["HOLDFAST_SIGNING_KEY"] = str(exports.world.runtime().state_folder / "signing-key.pem")
    world.folder = tmp_path / "mine"
    world.folder.mkdir()
    world.export()
    world.clock.advance(2 * HOUR.total_seconds())
    done = world.export()
    assert done.folder is not None
    return done.folder


def test_a_fork_is_found(exports: Exports, fork: Path) -> None:
    assert exports.verify(fork).problems == []
    assert_tampered(whole(exports, [exports.folders[0], fork]), "forked")
    assert_tampered(whole(exports, [*exports.folders, fork]), "forked")
    assert_tampered(whole(exports, [fork], remembered=checkpoint_of(exports.folders[1])), "rolled-back")


def test_keys_are_told_apart_by_what_they_are(exports: Exports) -> None:
    assert VerifierKey.parse(str(exports.key)) == exports.key
