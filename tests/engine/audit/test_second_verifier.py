"""Two verifiers that share nothing but the pages of the format come to the same verdict, whatever an export is.

The second one is `tests/audit_second_verifier.py`. What is crafted here is signed with the right key: it is what a
sealer with a bug, or one that lies, could have made, so only the pages say whether it is an export.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import audit_second_verifier as second
from audit_world import HOUR, AuditWorld, FakeSource, event
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.interface import Finding, SourceUnreadable, State
from holdfast.engine.audit.ledger import reference
from holdfast.engine.audit.signing import cosigners
from holdfast.engine.audit.tlog.keys import LocalSigner, Signer, VerifierKey
from holdfast.engine.audit.tlog.notes import Checkpoint, Note, cosigned, sign
from holdfast.engine.snapshot.documents import canonical

SECOND = Path(second.__file__)
COVERAGE = "coverage/fake.json"
EVENTS, OBJECTS = "segments/fake/000000.parquet", "segments/fake/000000.objects.parquet"

Row = dict[str, Any]


class Log:
    """Three exports of one log, once for all tests; a test gets a copy to damage."""

    def __init__(self, folder: Path) -> None:
        hours = [[[event(100 * hour + n) for n in range(20)], [event(100 * hour + 50)]] for hour in range(9)]
        self.world = AuditWorld(folder, FakeSource(hours))
        self.folders = []
        for _ in range(3):
            done = self.world.export()
            assert done.folder is not None
            self.folders.append(done.folder)
            self.world.clock.advance(2 * HOUR.total_seconds())
        self.signer = cosigners(self.world.runtime())[0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


@pytest.fixture
def copy(log: Log, tmp_path: Path) -> Path:
    return Path(shutil.copytree(log.folders[1], tmp_path / "copy"))


def both(folders: Sequence[Path], *keys: VerifierKey, needed: int | None = None) -> str:
    """The verdict both come to."""
    answer, _ = verify_exports(folders, trusted=keys, needed=needed)
    verdict, reasons = second.verify(folders, [str(key) for key in keys], needed)
    assert verdict == answer.verdict, (answer.problems, reasons)
    assert second.EXIT[verdict] == answer.exit_code
    return verdict


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# -- it is another program ------------------------------------------------------------------------------------------


def test_the_second_verifier_is_short_and_shares_no_code() -> None:
    text = SECOND.read_text()
    imported = {one.split(".")[0] for one in re.findall(r"^\s*(?:from|import) (\S+)", text, re.MULTILINE)}
    assert imported - sys.stdlib_module_names == {"cryptography", "pyarrow"}
    assert len([line for line in text.splitlines() if line.strip()]) < 360


def test_it_runs_alone(log: Log, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{log.world.key}\n")

    def run(*more: object) -> tuple[int, str]:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-I", str(SECOND), str(copy), *map(str, more)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environ,
            timeout=60,
            check=False,
        )
        assert not done.stderr
        return done.returncode, done.stdout.split()[0]

    assert run("--key", tmp_path / "keys.txt") == (0, "fine")
    assert run() == (7, "unknown")
    (copy / EVENTS).write_bytes(b"PAR1")
    assert run("--key", log.world.key) == (5, "tampered")


# -- what an export can be ------------------------------------------------------------------------------------------


def test_they_agree_on_whole_exports(log: Log) -> None:
    assert [both([one], log.world.key) for one in log.folders] == ["fine"] * 3
    assert both(log.folders[::-1], log.world.key) == "fine"
    assert both([*log.folders, log.folders[1]], log.world.key) == "fine"
    assert both([log.folders[0], log.folders[2]], log.world.key) == "incomplete"


def test_they_agree_on_exports_of_earlier_versions() -> None:
    golden = SECOND.parent / "golden" / "audit-export"
    key = VerifierKey.parse((golden / "keys.txt").read_text().strip())
    assert both([golden / "1", golden / "2"], key) == "fine"
    assert both([golden / "1"], key) == "incomplete"


def test_they_agree_on_keys(log: Log, copy: Path) -> None:
    stranger = LocalSigner.of(log.world.key.name, Ed25519PrivateKey.generate())
    cloud = LocalSigner.of("example.com/cloud", ec.generate_private_key(ec.SECP256R1()))
    assert both([copy]) == "unknown"
    assert both([copy], stranger.key) == "tampered"
    assert both([copy], log.world.key, cloud.key) == "tampered"
    assert both([copy], log.world.key, cloud.key, needed=1) == "fine"
    note = Note.parse((copy / "checkpoint").read_bytes())
    (copy / "checkpoint").write_bytes(bytes(cosigned(note, [cloud])))
    assert both([copy], log.world.key, cloud.key) == "fine"
    (copy / "checkpoint").write_bytes(bytes(cosigned(Note(note.text, ()), [cloud])))
    assert both([copy], cloud.key) == "tampered"


@pytest.mark.parametrize(
    ("findings", "fails", "verdict"),
    [
        ((Finding("shard", "one more may come", state=State.LATE),), None, "incomplete"),
        ((Finding("digest-missing", "one of two"),), None, "incomplete"),
        ((Finding("narrowed", "who knows", state=State.UNKNOWN),), None, "unknown"),
        ((Finding("a", "b", state=State.UNKNOWN), Finding("c", "d", state=State.LATE)), None, "incomplete"),
        ((Finding("duplicates", "two", state=State.COMPLETE),), None, "fine"),
        ((), SourceUnreadable("the token expired", where="fake"), "unknown"),
    ],
)
def test_they_agree_on_coverage(
    tmp_path: Path, findings: tuple[Finding, ...], fails: Exception | None, verdict: str
) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(6)]))
    world.source.findings[1] = findings
    world.source.fails |= {1: fails} if fails else {}
    done = world.export()
    assert done.folder is not None
    assert both([done.folder], world.key) == verdict
    assert both([done.folder]) == ("incomplete" if verdict == "incomplete" else "unknown")
    world.source.findings.clear()
    world.source.fails.clear()
    world.clock.advance(HOUR.total_seconds())
    later = world.export()
    assert later.folder is not None
    assert both([done.folder, later.folder], world.key) == "fine"  # it was asked again, and the newest counts


# -- any change of any byte -----------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Another content: some bytes are replaced by others, from anywhere in it or drawn; or it ends there."""
    at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
    start = draw(st.integers(0, max(len(data) - 1, 0)))
    new = draw(st.one_of(st.binary(max_size=8), st.just(data[start : start + length])))
    return draw(st.sampled_from((data[:at] + new + data[at + length :], data[:at])))


def mutate(data: st.DataObject, folder: Path, folders: Sequence[Path], key: VerifierKey) -> None:
    file = data.draw(st.sampled_from(files_of(folder)))
    original = file.read_bytes()
    now = data.draw(changed(original))
    assume(now != original)
    file.write_bytes(now)
    try:
        assert both(folders, key) == "tampered"
    finally:
        file.write_bytes(original)


MUTATIONS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    "number", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
@MUTATIONS
@given(data=st.data())
def test_they_agree_on_a_changed_file(log: Log, tmp_path: Path, number: int, data: st.DataObject) -> None:
    folder = tmp_path / "copy"
    if not folder.exists():
        shutil.copytree(log.folders[number], folder)
    mutate(data, folder, [folder], log.world.key)


@pytest.mark.slow
@MUTATIONS
@given(data=st.data())
def test_they_agree_on_a_changed_file_of_several_exports(log: Log, copy: Path, data: st.DataObject) -> None:
    mutate(data, copy, [log.folders[0], copy, log.folders[2]], log.world.key)


# -- what a sealer that lies could have made ------------------------------------------------------------------------


def leaves_of(folder: Path, row: Row) -> Iterator[bytes]:
    for segment in row["segments"]:
        table = pq.ParquetFile(folder / segment["events"]["path"]).read()
        columns = dict(zip(table.column_names, table.columns, strict=True))
        for one in columns["raw"].to_pylist() if "raw" in columns else [b""] * len(table):
            data = one if isinstance(one, bytes) else b"" if one is None else str(one).encode()
            yield second.leaf(b"\x01", data)
    for document in row["documents"]:
        yield second.leaf(b"\x02", (folder / document["file"]["path"]).read_bytes())


def reseal(
    folder: Path,
    *signers: Signer,
    edit: Callable[[Row], object] = lambda _row: None,
    spell: Callable[[bytes], bytes] = bytes,
) -> None:
    """Make everything fit what lies in the folder now, and sign it.

    Args:
        edit: changes the manifest once it fits.
        spell: makes other bytes of it.
    """
    row = json.loads((folder / "manifest.json").read_bytes())
    at = row["first_leaf"]
    for segment in row["segments"]:
        for part in ("events", "objects"):
            segment[part] = reference(folder, segment[part]["path"]).model_dump()
        segment["first_leaf"] = at
        segment["rows"] = pq.read_metadata(folder / segment["events"]["path"]).num_rows
        segment["object_count"] = pq.read_metadata(folder / segment["objects"]["path"]).num_rows
        at += segment["rows"]
    for document in row["documents"]:
        document["file"] = reference(folder, document["file"]["path"]).model_dump()
        document["leaf"], at = at, at + 1
    row["size"] = at + 1
    row["signers"] = [str(signer.key) for signer in signers]
    leaves = list(leaves_of(folder, row))
    edit(row)
    data = spell(canonical(row))
    (folder / "manifest.json").write_bytes(data)
    ranges = json.loads((folder / "range.json").read_bytes())
    left = [bytes.fromhex(one) for one in ranges["left"]]
    first = sum(1 << bit for bit in range(64) if row["first_leaf"] >> bit & 1)
    before = second.append(left, first, leaves) if len(left) == first.bit_count() else left
    (folder / "range.json").write_bytes(canonical({**ranges, "before": [one.hex() for one in before]}))
    size = max(at + 1, 1)
    root = second.fold(second.append(before, size - 1, [second.leaf(b"\x03", data)])) if size - 1 else bytes(32)
    (folder / "checkpoint").write_bytes(sign(Checkpoint(row["origin"], row["size"], root).text, signers))


def test_what_is_sealed_again_is_fine(log: Log, copy: Path) -> None:
    """Else the tests below could not fail."""
    before = (copy / "checkpoint").read_bytes()
    reseal(copy, log.signer)
    assert (copy / "checkpoint").read_bytes() == before
    assert both([copy], log.world.key) == "fine"


def test_what_another_key_sealed_is_not_trusted(log: Log, copy: Path) -> None:
    forged = LocalSigner.of(log.world.key.name, Ed25519PrivateKey.generate())
    reseal(copy, forged)
    assert both([copy], log.world.key) == "tampered"
    assert both([copy], forged.key) == "fine"
    assert both([copy]) == "unknown"


def changes(path: str, value: Any) -> Callable[[Row], None]:
    """Sets one value of the manifest: ``sources.0.name``."""

    def edit(row: Any) -> None:
        *parts, last = path.split(".")
        for part in parts:
            row = row[int(part)] if part.isdigit() else row[part]
        row[int(last) if last.isdigit() else last] = value

    return edit


def twice(name: str) -> Callable[[Row], None]:
    return lambda row: row[name].append(row[name][0])


MANIFESTS: dict[str, Callable[[Row], object]] = {
    "another format": changes("format", "holdfast.audit-export/2"),
    "a field more": changes("more", 1),
    "a field less": lambda row: row.pop("sealed_by"),
    "a document without source": lambda row: row["documents"][0].pop("source"),
    "no signer": changes("signers", []),
    "a signer twice": twice("signers"),
    "a seal that does not follow": changes("seal", 7),
    "no previous and not the first": changes("previous", None),
    "a previous of another size": changes("previous.size", 3),
    "a previous of another root": changes("previous.root", "00" * 32),
    "a previous that was sealed later": changes("previous.sealed_at", "2099-01-01T00:00:00.000000Z"),
    "a window of the future": changes("sources.0.window.end", "2099-01-01T00:00:00.000000Z"),
    "a window that ends first": changes("sources.0.window.end", "2020-01-01T00:00:00.000000Z"),
    "the end of time": changes("sealed_at", "9999-12-31T23:59:59.999999Z"),
    "the beginning of time": changes("previous.sealed_at", "0001-01-01T00:00:00.000000Z"),
    "a time with an offset": changes("sealed_at", "2026-11-29T18:00:00.000000+01:00"),
    "a time before all times": changes("sealed_at", "0001-01-01T00:00:00.000000+14:00"),
    "a time without fractions": changes("sealed_at", "2026-11-29T17:00:00Z"),
    "a time as a number": changes("sealed_at", 1764417600),
    "a number as text": changes("seal", "1"),
    "a number that is true": changes("seal", True),
    "a size below none": changes("documents.0.file.size_bytes", -1),
    "a huge size": changes("documents.0.file.size_bytes", 2**53 - 1),
    "a huge number of rows": changes("segments.0.rows", 2**53 - 1),
    "rows that are not there": changes("segments.0.rows", 43),
    "an object more": changes("segments.0.object_count", 5),
    "a leaf of another place": changes("documents.0.leaf", 3),
    "a digest in capitals": lambda row: row["documents"][0]["file"].update(
        sha256=row["documents"][0]["file"]["sha256"].upper()
    ),
    "a source twice": twice("sources"),
    "a segment of no source": changes("segments.0.source", "nobody"),
    "a document of no source": changes("documents.0.source", "nobody"),
    "a coverage that is another document": changes("sources.0.coverage", "topology/holdfast.yaml"),
    "a coverage that is not there": changes("sources.0.coverage", "coverage/other.json"),
    "a coverage that is a segment": changes("sources.0.coverage", EVENTS),
    "another source's coverage": changes("sources.0.name", "other"),
    "another kind": changes("sources.0.kind", "cloudtrail"),
    "a state that is better": changes("sources.0.state", "late"),
    "no such state": changes("sources.0.state", "fine"),
    "no such lock": changes("retention.lock_mode", "some"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_they_agree_on_a_signed_manifest_that_is_none(log: Log, copy: Path, case: str) -> None:
    reseal(copy, log.signer, edit=MANIFESTS[case])
    agreed = both([copy], log.world.key)
    assert agreed == ("fine" if case in {"the beginning of time", "the end of time"} else "tampered")


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield (*path, name)
        yield from nodes(one, (*path, name))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


TIMES = ("2026-11-29T16:00:00.000000Z", "2026-13-01T00:00:00.000000Z", "2026-11-29T16:00:00Z")
TEXTS = ("", "0", "fake", "complete", "none", "\u00e9", "a" * 64, ".", "checkpoint")
ODD = st.sampled_from((None, True, False, -1, 0, 1, 0.5, 2**53, 2**64, [], {}, [None], *TIMES, *TEXTS))


def odd(data: st.DataObject, row: Row) -> None:
    """Put something odd, or another part of it, in the place of one part; or take it away."""
    paths = list(nodes(row))
    *place, last = data.draw(st.sampled_from(paths))
    holder = at(row, tuple(place))
    match data.draw(st.sampled_from(("odd", "other", "away", "twice"))):
        case "odd":
            holder[last] = data.draw(ODD)
        case "other":
            holder[last] = json.loads(json.dumps(at(row, data.draw(st.sampled_from(paths)))))
        case "away":
            del holder[last]
        case _:
            holder[f"{last}2" if isinstance(holder, dict) else slice(last, last)] = (
                holder[last] if isinstance(holder, dict) else [holder[last]]
            )


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(("manifest.json", COVERAGE, "range.json")))
def test_they_agree_on_whatever_json_is_signed(log: Log, copy: Path, data: st.DataObject, name: str) -> None:
    """Verdicts are equal, whatever they are, and nothing else than a verdict comes of it."""
    held = {one: (copy / one).read_bytes() for one in ("manifest.json", COVERAGE, "range.json", "checkpoint")}
    row = json.loads(held[name])
    odd(data, row)
    try:
        changed_bytes = canonical(row)
    except ValueError:
        return  # RFC 8785 has no spelling of it
    try:
        if name == COVERAGE:
            (copy / COVERAGE).write_bytes(changed_bytes)
            reseal(copy, log.signer)
        elif name == "range.json":
            (copy / name).write_bytes(changed_bytes)
        else:
            sealed_as(copy, changed_bytes, log.signer)
        both([copy], log.world.key)
    finally:
        for one, original in held.items():
            (copy / one).write_bytes(original)


def sealed_as(folder: Path, manifest: bytes, signer: Signer) -> None:
    """Sign this manifest as the last leaf after the leaves that are there."""
    row = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(manifest)
    before = [bytes.fromhex(one) for one in json.loads((folder / "range.json").read_bytes())["before"]]
    root = second.fold(second.append(before, row["size"] - 1, [second.leaf(b"\x03", manifest)]))
    (folder / "checkpoint").write_bytes(sign(Checkpoint(row["origin"], row["size"], root).text, [signer]))


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "a key twice": lambda data: data.replace(b'{"documents"', b'{"seal":0,"documents"', 1),
    "a key twice, the same": lambda data: data.replace(b',"seal":1,', b',"seal":1,"seal":1,'),
    "a number with a fraction": lambda data: data.replace(b',"seal":1,', b',"seal":1.0,'),
    "a number with an exponent": lambda data: data.replace(b',"seal":1,', b',"seal":1e0,'),
    "a number below zero": lambda data: data.replace(b',"seal":1,', b',"seal":-0,'),
    "no number": lambda data: data.replace(b',"seal":1,', b',"seal":NaN,'),
    "a number beyond all": lambda data: data.replace(b',"seal":1,', b',"seal":1' + b"0" * 5000 + b","),
    "a letter escaped": lambda data: data.replace(b"holdfast.audit", b"\\u0068oldfast.audit"),
    "a lone surrogate": lambda data: data.replace(b'"sealed_by":"', b'"sealed_by":"\\ud800'),
    "a line feed at the end": lambda data: data + b"\n",
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "deeply nested": lambda _data: b"[" * 100_000 + b"]" * 100_000,
    "a list": lambda data: b"[" + data + b"]",
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_they_agree_on_a_manifest_spelt_otherwise(log: Log, copy: Path, case: str) -> None:
    reseal(copy, log.signer, spell=SPELLINGS[case])
    assert both([copy], log.world.key) == "tampered"


def test_they_agree_that_texts_may_be_of_any_script(log: Log, copy: Path) -> None:
    reseal(copy, log.signer, edit=changes("sealed_by", "e\u0301 \U0001f600 \ufb33 \x7f \n"))
    assert both([copy], log.world.key) == "fine"


PATHS = [
    "Checkpoint",
    "checkpoint.TSR",
    "RANGE.json",
    "../escape",
    "a//b",
    "/absolute",
    "a/./b",
    "a/.../b",
    "coverage/FAKE.json",
    "e\u0301",
    "a" * 901,
    "a b",
    "",
    "a/",
    "a\\b",
]


@pytest.mark.parametrize("path", PATHS)
def test_they_agree_on_paths(log: Log, copy: Path, path: str) -> None:
    if path and len(path) < 256 and not path.startswith(("/", "..")):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.rstrip("/")).write_bytes((copy / "topology/holdfast.yaml").read_bytes())
    (copy / "topology/holdfast.yaml").rename(copy.parent / "held")
    shutil.copyfile(copy.parent / "held", copy / "topology/holdfast.yaml")
    reseal(copy, log.signer, edit=changes("documents.1.file.path", path))
    (copy / "topology/holdfast.yaml").unlink()
    assert both([copy], log.world.key) == "tampered"


@pytest.mark.parametrize("path", ["a/.b", "a...b", "=/@,+", "x" * 200])
def test_they_agree_on_odd_paths_that_are_allowed(log: Log, copy: Path, path: str) -> None:
    (copy / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(copy / "topology/holdfast.yaml", copy / path)
    reseal(copy, log.signer, edit=changes("documents.1.file.path", path))
    (copy / "topology/holdfast.yaml").unlink()
    assert both([copy], log.world.key) == "fine"


RANGES: dict[str, Callable[[Row], object]] = {
    "text for a list": lambda row: row.update(left=""),
    "an object for a list": lambda row: row.update(left={}),
    "an object with the hashes": lambda row: row.update(before=dict.fromkeys(row["before"], 1)),
    "null": lambda row: row.update(left=None),
    "numbers": lambda row: row.update(left=[1]),
    "a hash more": lambda row: row["before"].append("00" * 32),
    "a hash less": lambda row: row["before"].pop(),
    "short hashes": lambda row: row.update(before=[one[:62] for one in row["before"]]),
    "capitals": lambda row: row.update(before=[one.upper() for one in row["before"]]),
    "a field more": lambda row: row.update(more=1),
    "another format": lambda row: row.update(format="holdfast.range/2"),
}


@pytest.mark.parametrize("case", RANGES)
def test_they_agree_on_ranges(log: Log, tmp_path: Path, case: str) -> None:
    """Of the first export, whose ``left`` is empty."""
    copy = Path(shutil.copytree(log.folders[0], tmp_path / "copy"))
    row = json.loads((copy / "range.json").read_bytes())
    RANGES[case](row)
    (copy / "range.json").write_bytes(canonical(row))
    assert both([copy], log.world.key) == "tampered"


def interval(**changed_fields: Any) -> Callable[[Row], None]:
    return lambda row: row["intervals"][0].update(changed_fields)


COVERAGES: dict[str, tuple[str, Callable[[Row], object]]] = {
    "another source": ("tampered", lambda row: row.update(source="other")),
    "another kind": ("tampered", lambda row: row.update(kind="other")),
    "another format": ("tampered", lambda row: row.update(format="holdfast.coverage/2")),
    "a field more": ("tampered", lambda row: row.update(more=1)),
    "a field more of an interval": ("tampered", interval(more=1)),
    "a better state": ("tampered", interval(observed=0)),
    "a worse state": ("tampered", interval(state="late")),
    "no proof": ("tampered", interval(proof="none")),
    "nothing expected": ("tampered", interval(expected=None)),
    "expected a text": ("tampered", interval(expected="1")),
    "expected true": ("tampered", interval(expected=True)),
    "expected less than none": ("tampered", interval(expected=-1)),
    "expected half": ("tampered", interval(expected=0.5)),
    "records as text": ("tampered", interval(records="many")),
    "a time of another zone": ("tampered", interval(start="2026-11-29T16:00:00.000000+01:00")),
    "a time without zone": ("tampered", interval(start="2026-11-29T15:00:00.000000")),
    "a time before all times": ("tampered", interval(start="0001-01-01T00:00:00.000000+14:00")),
    "an empty interval": ("tampered", interval(end="2026-11-29T15:00:00.000000Z")),
    "an interval twice": ("tampered", lambda row: row["intervals"].append(row["intervals"][0])),
    "a finding that is none": ("tampered", interval(findings=[{"code": "x"}])),
    "a finding of no state": (
        "tampered",
        interval(findings=[{"code": "x", "detail": "", "where": "", "state": "fine"}]),
    ),
    "a code that is a number": (
        "tampered",
        interval(findings=[{"code": 1, "detail": "", "where": "", "state": "complete"}]),
    ),
    "a finding to know": (
        "fine",
        interval(findings=[{"code": "x", "detail": "", "where": "", "state": "complete"}]),
    ),
    "more than expected": ("fine", interval(observed=7)),
    "intervals as an object": ("tampered", lambda row: row.update(intervals={})),
    "no interval": ("tampered", lambda row: row.update(intervals=[])),
}


@pytest.mark.parametrize("case", COVERAGES)
def test_they_agree_on_coverage_documents(log: Log, copy: Path, case: str) -> None:
    row = json.loads((copy / COVERAGE).read_bytes())
    verdict, edit = COVERAGES[case]
    edit(row)
    (copy / COVERAGE).write_bytes(canonical(row))
    reseal(copy, log.signer)
    assert both([copy], log.world.key) == verdict


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"expected":1', b'"expected":NaN'),
        (b'"expected":1', b'"expected":1.0'),
        (b'"expected":1', b'"expected":9,"expected":1'),
        (b'{"format"', b'{ "format"'),
    ],
)
def test_they_agree_on_coverage_that_is_not_canonical(log: Log, copy: Path, old: bytes, new: bytes) -> None:
    data = (copy / COVERAGE).read_bytes()
    assert old in data
    (copy / COVERAGE).write_bytes(data.replace(old, new, 1))
    reseal(copy, log.signer)
    assert both([copy], log.world.key) == "tampered"


def states(row: Row, *each: Row) -> None:
    for one, more in zip(row["intervals"], each, strict=False):
        one.update(more)


@pytest.mark.parametrize(
    ("intervals", "state", "verdict"),
    [
        ([{"state": "unknown", "proof": "none", "expected": 3, "observed": 1}], "unknown", "unknown"),
        ([{"state": "unknown", "proof": "none", "expected": None}], "unknown", "unknown"),
        ([{"state": "gap", "observed": 0}], "gap", "incomplete"),
        ([], "complete", "fine"),
        (None, "unknown", "unknown"),
    ],
)
def test_they_agree_on_what_states_come_to(
    log: Log, copy: Path, intervals: list[Row] | None, state: str, verdict: str
) -> None:
    row = json.loads((copy / COVERAGE).read_bytes())
    if intervals is None:
        row["intervals"] = []
    states(row, *(intervals or []))
    row["state"] = state
    (copy / COVERAGE).write_bytes(canonical(row))
    reseal(copy, log.signer, edit=changes("sources.0.state", state))
    assert both([copy], log.world.key) == verdict


def raw_as(kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return pa.table({"raw": table.column("raw").cast(kind)})

    return change


def rows_as(rows: list[Any], kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("rows")
        return table.set_column(at, "rows", pa.array(rows, kind or pa.int64()))

    return change


#: File, what is done to its table, how it is written, and what comes of it.
TABLES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], dict[str, Any], str]] = {
    "many row groups": (EVENTS, lambda table: table, {"row_group_size": 3}, "fine"),
    "no compression": (EVENTS, lambda table: table, {"compression": "none", "use_dictionary": False}, "fine"),
    "other encodings": (
        EVENTS,
        lambda table: table,
        {"use_dictionary": False, "column_encoding": {"raw": "DELTA_BYTE_ARRAY"}},
        "fine",
    ),
    "other pages": (EVENTS, lambda table: table, {"data_page_version": "2.0", "version": "1.0"}, "fine"),
    "raw and nothing else": (EVENTS, raw_as(pa.binary()), {}, "fine"),
    "raw as text": (EVENTS, raw_as(pa.string()), {}, "tampered"),
    "raw as a dictionary": (EVENTS, raw_as(pa.dictionary(pa.int32(), pa.binary())), {}, "tampered"),
    "raw as a view": (EVENTS, raw_as(pa.binary_view()), {}, "tampered"),
    "raw of a fixed size": (
        EVENTS,
        lambda table: pa.table({"raw": pa.array([b"0" * 16] * len(table), pa.binary(16))}),
        {},
        "tampered",
    ),
    "raw as numbers": (EVENTS, lambda table: pa.table({"raw": pa.array(range(len(table)))}), {}, "tampered"),
    "raw in lists": (
        EVENTS,
        lambda table: pa.table({"raw": pa.array([[b"x"]] * len(table), pa.list_(pa.binary()))}),
        {},
        "tampered",
    ),
    "raw in an object": (
        EVENTS,
        lambda table: pa.table({"raw": pa.array([{"raw": b"x"}] * len(table))}),
        {},
        "tampered",
    ),
    "no raw": (EVENTS, lambda table: table.drop_columns(["raw"]), {}, "tampered"),
    "raw twice": (
        EVENTS,
        lambda table: pa.table([table.column("raw")] * 2, names=["raw", "raw"]),
        {},
        "tampered",
    ),
    "a column that is called like a part of raw": (
        EVENTS,
        lambda table: pa.table({"raw.x": [b"another"] * len(table), "raw": table.column("raw")}),
        {},
        "fine",
    ),
    "raw that is null": (
        EVENTS,
        lambda table: pa.table({"raw": pa.array([None, *table.column("raw").to_pylist()[1:]], pa.large_binary())}),
        {},
        "tampered",
    ),
    "raw that is empty": (
        EVENTS,
        lambda table: pa.table({"raw": pa.array([b""] * len(table), pa.large_binary())}),
        {},
        "fine",
    ),
    "no event": (EVENTS, lambda table: table.slice(0, 0), {}, "tampered"),
    "objects of other rows": (OBJECTS, rows_as([20, 1, 20, 2]), {}, "tampered"),
    "an object of less than none": (OBJECTS, rows_as([-1, 22, 20, 1]), {}, "tampered"),
    "an object of nobody knows how many": (OBJECTS, rows_as([None, 21, 20, 1]), {}, "tampered"),
    "rows as text": (OBJECTS, rows_as(["20", "1", "20", "1"], pa.string()), {}, "tampered"),
    "rows with fractions": (OBJECTS, rows_as([20.0, 1.0, 20.0, 1.0], pa.float64()), {}, "tampered"),
    "objects without rows": (OBJECTS, lambda table: table.drop_columns(["rows"]), {}, "tampered"),
    "objects that are events": (OBJECTS, lambda table: pa.table({"raw": [b"x"] * len(table)}), {}, "tampered"),
}


@pytest.mark.parametrize("case", TABLES)
def test_they_agree_on_parquet_files(log: Log, copy: Path, case: str) -> None:
    name, change, options, verdict = TABLES[case]
    pq.write_table(change(pq.read_table(copy / name)), copy / name, **options)
    reseal(copy, log.signer)
    assert both([copy], log.world.key) == verdict


@pytest.mark.parametrize("data", [b"", b"PAR1", b"{}", b"PAR1" + bytes(100) + b"PAR1"])
def test_they_agree_on_a_segment_that_is_no_parquet(log: Log, copy: Path, data: bytes) -> None:
    reseal(copy, log.signer, edit=lambda row: spoil(copy, row, data))
    assert both([copy], log.world.key) == "tampered"


def spoil(folder: Path, row: Row, data: bytes) -> None:
    (folder / OBJECTS).write_bytes(data)
    row["segments"][0]["objects"] = reference(folder, OBJECTS).model_dump()


def test_they_agree_on_an_empty_segment_and_an_empty_document(log: Log, copy: Path) -> None:
    for name in (EVENTS, OBJECTS):
        pq.write_table(pq.read_table(copy / name).slice(0, 0), copy / name)
    (copy / "topology/holdfast.yaml").write_bytes(b"")
    reseal(copy, log.signer)
    assert both([copy], log.world.key) == "fine"


def without_sources(copy: Path, signer: Signer) -> None:
    def edit(row: Row) -> None:
        row.update(sources=[], segments=[], documents=[], size=row["first_leaf"] + 1)

    for one in ("segments", "coverage", "topology", "policies"):
        (copy / one).rename(copy.parent / one)
    row = json.loads((copy / "manifest.json").read_bytes())
    edit(row)
    (copy / "manifest.json").write_bytes(canonical(row))
    reseal(copy, signer)


def test_they_agree_on_an_export_of_nothing(log: Log, copy: Path) -> None:
    without_sources(copy, log.signer)
    assert both([copy], log.world.key) == "fine"


def test_they_agree_on_links_and_devices(log: Log, copy: Path) -> None:
    (copy / "documents").mkdir(exist_ok=True)
    assert both([copy], log.world.key) == "fine"
    (copy / "documents/link").symlink_to(copy / "coverage")
    assert both([copy], log.world.key) == "tampered"
    (copy / "documents/link").unlink()
    os.mkfifo(copy / "checkpoint.tsr")
    assert both([copy], log.world.key) == "tampered"
    (copy / "checkpoint.tsr").unlink()
    (copy / "range.json").unlink()
    os.mkfifo(copy / "range.json")
    assert both([copy], log.world.key) == "tampered"


def test_they_agree_on_checkpoints_spelt_otherwise(log: Log, copy: Path) -> None:
    note = (copy / "checkpoint").read_bytes()
    text, _, signatures = note.partition(b"\n\n")
    origin, size, root = text.split(b"\n")
    for other in (
        text + b"\nan extension",
        text + b"\n\nan extension",
        b"\n".join((origin, b"0" + size, root)),
        b"\n".join((origin, b"+" + size, root)),
        b"\n".join((origin, size, root.replace(b"=", b""))),
        b"\n".join((origin, size)),
        b"",
    ):
        signed = bytes(cosigned(Note(other.decode() + "\n", ()), [log.signer]))
        (copy / "checkpoint").write_bytes(signed)
        allowed = other.endswith(b"extension") and b"\n\n" not in other
        assert both([copy], log.world.key) == ("fine" if allowed else "tampered"), other
    for below in (
        signatures * 100,
        signatures * 101,
        signatures + b"\n",
        signatures[:-1],
        signatures.replace(b" ", b"  "),
        b"\xe2\x80\x94 a+b AAAAAAA=\n" + signatures,
        b"\xe2\x80\x94 stranger AAAAAA==\n" + signatures,
        b"\xe2\x80\x94 stranger AAAAAAA=\n" + signatures,
        b"\xe2\x80\x94 stranger\x7f AAAAAAA=\n" + signatures,
        b"",
    ):
        (copy / "checkpoint").write_bytes(text + b"\n\n" + below)
        allowed = below == signatures * 100 or (b" AAAAAAA=" in below and b"+" not in below[:8])
        assert both([copy], log.world.key) == ("fine" if allowed else "tampered"), below


# -- between exports ------------------------------------------------------------------------------------------------


def second_seal(log: Log, folder: Path, path: str, value: Any) -> list[Path]:
    """The first two exports, the second sealed again with another value."""
    copy = Path(shutil.copytree(log.folders[1], folder / "again"))
    reseal(copy, log.signer, edit=changes(path, value))
    return [log.folders[0], copy]


@pytest.mark.parametrize(
    ("path", "value", "verdict"),
    [
        ("sealed_by", "somebody", "fine"),
        ("sources.0.window.start", "2026-11-29T16:00:00.000000Z", "incomplete"),
        ("sources.0.window.start", "2026-11-29T14:00:00.000000Z", "tampered"),
        ("sources.0.window", None, "incomplete"),
        ("previous.sealed_at", "2026-11-29T14:59:00.000000Z", "tampered"),
    ],
)
def test_they_agree_between_exports(log: Log, tmp_path: Path, path: str, value: Any, verdict: str) -> None:
    assert both(second_seal(log, tmp_path, path, value), log.world.key) == verdict


def test_they_agree_that_a_source_is_gone(log: Log, copy: Path) -> None:
    without_sources(copy, log.signer)
    assert both([log.folders[0], copy], log.world.key) == "incomplete"
    answer, _ = verify_exports([log.folders[0], copy], trusted=[log.world.key])
    (problem,) = answer.problems
    assert (problem.code, problem.expected) == ("source-gone", "a window of fake from 2026-11-29T15:00:00+00:00 on")
    assert answer.sources == {"fake": "gap"}


def test_they_agree_on_forks(log: Log, tmp_path: Path) -> None:
    first, again = second_seal(log, tmp_path, "sealed_by", "somebody")
    assert both([first, again, log.folders[1]], log.world.key) == "tampered"
    assert both([again, log.folders[2]], log.world.key) == "tampered"


def test_a_window_is_missed_over_an_export_that_asked_nothing_of_the_source(log: Log, tmp_path: Path) -> None:
    """The hole is between the first and the third."""
    folders = second_seal(log, tmp_path, "sources.0.window", None)
    third = Path(shutil.copytree(log.folders[2], tmp_path / "third"))
    before = json.loads((folders[1] / "manifest.json").read_bytes())
    checkpoint = Checkpoint.parse(Note.parse((folders[1] / "checkpoint").read_bytes()).text)
    ranges = json.loads((folders[1] / "range.json").read_bytes())
    compact = [bytes.fromhex(one) for one in ranges["before"]]
    leaf = second.leaf(b"\x03", (folders[1] / "manifest.json").read_bytes())
    left = second.append(compact, before["size"] - 1, [leaf])
    own = json.loads((third / "range.json").read_bytes())
    (third / "range.json").write_bytes(canonical({**own, "left": [one.hex() for one in left]}))
    reseal(third, log.signer, edit=changes("previous.root", checkpoint.root.hex()))
    assert both([*folders, third], log.world.key) == "incomplete"


# -- what only the first verifier reads -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["documents/fake/000000/scope/000000.json", "evidence/one/evidence.dsse.json"])
@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b"", b"{}"])
def test_proofs_that_cannot_be_read_are_no_traceback(log: Log, copy: Path, path: str, data: bytes) -> None:
    coverage = json.loads((copy / COVERAGE).read_bytes())
    (copy / COVERAGE).write_bytes(canonical({**coverage, "kind": "cloudtrail"}))
    (copy / path).parent.mkdir(parents=True)
    (copy / path).write_bytes(data)
    row = json.loads((copy / "manifest.json").read_bytes())
    row["sources"][0]["kind"] = "cloudtrail"
    row["documents"].append({**row["documents"][1], "file": {"path": path}})
    (copy / "manifest.json").write_bytes(canonical(row))
    reseal(copy, log.signer)
    answer, _ = verify_exports([copy], trusted=[log.world.key])
    assert answer.verdict != "fine"
    assert path.startswith("documents") or answer.verdict == "tampered"
