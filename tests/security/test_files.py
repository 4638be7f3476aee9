"""Files somebody else made: names that lead elsewhere, links, bombs. Refused, with little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_world import START, AuditWorld, FakeSource, event
from holdfast.engine.audit.coverage import parse_coverage
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.interface import Document
from holdfast.engine.audit.ledger import Ledger, parse_record
from holdfast.engine.audit.manifest import parse_manifest
from holdfast.engine.audit.segments import OBJECTS_SCHEMA, read_objects, read_raw
from holdfast.engine.audit.tlog.notes import Note
from holdfast.errors import ConfigError, HoldfastError

FOLDER = "00000000-0123456789abcdef"
DEEP = b"[" * 200_000 + b"]" * 200_000


class EvilSite:
    """A ledger's site that lists what it likes."""

    name = "evil"

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def list(self, prefix: str = "", **_: Any) -> Iterator[Any]:
        return (SimpleNamespace(key=prefix + key) for key in self._keys)

    def open(self, key: str) -> Iterator[bytes]:
        return iter([b"evil"])


def fetch(folder: Path, *names: str) -> Path:
    stores: Any = {"evil": EvilSite(*names)}
    record: Any = SimpleNamespace(folder=FOLDER)
    return Ledger("example.com/desk", stores).fetch(record, folder / "export")


@pytest.mark.parametrize(
    "names",
    [
        ["../outside"],
        ["coverage/../../outside"],
        ["/outside"],
        ["..%2foutside"],
        ["%2e%2e/outside"],
        ["..\\outside"],
        ["C:\\outside"],
        ["a\0b"],
        ["a\nb"],
        ["a/./b"],
        ["a//b"],
        [""],
        ["."],
        ["~/outside"],
        ["\u202egnp.exe"],
        ["a" * 256],
        ["a", "a/b"],
        ["a/b", "a"],
        ["checkpoint", "checkpoint/x"],
        ["coverage/One.json", "coverage/one.json"],
        ["Coverage/x", "coverage/X"],
        ["a", "a"],
    ],
    ids=repr,
)
def test_a_site_of_the_ledger_writes_nothing_outside_the_export(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(HoldfastError):
        fetch(tmp_path, *names)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_what_a_site_has_by_good_names_is_fetched(tmp_path: Path) -> None:
    folder = fetch(tmp_path, "coverage/x.json", "coverage.json", "manifest.json")
    assert sorted(path.name for path in folder.rglob("*.json")) == ["coverage.json", "manifest.json", "x.json"]


def test_a_disk_that_is_full_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match="No space left"):
        fetch(tmp_path, "manifest.json")


@pytest.mark.parametrize("number", ["99999999", "00000001", "٠٠٠٠٠٠٠٠", "0000000a", "../../../x"])
def test_a_seal_that_is_made_up_costs_no_memory(number: str) -> None:
    import tracemalloc

    stores: Any = {"evil": EvilSite(f"{number}.json")}
    tracemalloc.start()
    try:
        with pytest.raises(HoldfastError):
            Ledger("example.com/desk", stores).head()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        DEEP,
        b'{"a":' * 100_000,
        b'{"seal": ' + b"9" * 100_000 + b"}",
        b'{"seal": 1e999999}',
        b"\xff\xfe{",
        b"\x00",
        b"",
        b"null",
        b"[]",
        b'"x"',
        b'{"format": "holdfast.seal/1", "format": "holdfast.seal/1"}',
    ],
    ids=lambda data: repr(data[:24]),
)
@pytest.mark.parametrize(
    "parse",
    [
        parse_record,
        parse_manifest,
        parse_coverage,
        lambda data, _where: Note.parse(data),
    ],
    ids=["record", "manifest", "coverage", "note"],
)
def test_a_document_that_is_none_is_one_clear_error(parse: Callable[[bytes, str], object], data: bytes) -> None:
    with pytest.raises(HoldfastError) as caught:
        parse(data, "here")
    assert len(str(caught.value)) < 2000


@pytest.fixture
def world(tmp_path: Path) -> AuditWorld:
    return AuditWorld(tmp_path, FakeSource([[[event(1), event(2)]], [[event(3)]]]))


@pytest.fixture
def export(world: AuditWorld) -> Path:
    folder = world.export().folder
    assert world.verify(folder).verdict == "fine"
    return folder


@pytest.mark.parametrize("name", ["manifest.json", "range.json", "checkpoint", "coverage/fake.json"])
@pytest.mark.parametrize("data", [DEEP, b"", b"\0" * 2_000_000, b"{}"], ids=["deep", "empty", "nul", "object"])
def test_a_file_of_an_export_that_is_something_else_is_tampered(
    world: AuditWorld, export: Path, name: str, data: bytes
) -> None:
    (export / name).write_bytes(data)
    assert world.verify(export).verdict == "tampered"


@pytest.mark.parametrize("name", ["manifest.json", "range.json", "checkpoint", "coverage/fake.json"])
@pytest.mark.parametrize("kind", ["link", "link-away", "link-to-itself", "folder", "pipe", "device"])
def test_a_link_or_what_is_no_file_is_tampered_and_not_followed(
    world: AuditWorld, export: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """A pipe would be waited for, a device read without an end; the same bytes by a link may be others later."""
    file, away = export / name, tmp_path / "away"
    file.rename(away)
    if kind == "link":
        file.symlink_to(away)
    elif kind == "link-away":
        file.symlink_to("/etc/hostname")
    elif kind == "link-to-itself":
        file.symlink_to(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert world.verify(export).verdict == "tampered"


def test_a_folder_behind_a_link_is_tampered(world: AuditWorld, export: Path, tmp_path: Path) -> None:
    (export / "coverage").rename(tmp_path / "coverage-away")
    (export / "coverage").symlink_to(tmp_path / "coverage-away")
    assert world.verify(export).verdict == "tampered"


def test_a_hard_link_is_read_as_what_it_is(world: AuditWorld, export: Path, tmp_path: Path) -> None:
    """It cannot be told from a file; what counts is that its bytes are checked."""
    file = export / "coverage" / "fake.json"
    file.unlink()
    (tmp_path / "other").write_bytes(b"{}")
    os.link(tmp_path / "other", file)
    assert world.verify(export).verdict == "tampered"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a\0b", "..%2foutside", "a" * 300, "a b"])
def test_a_source_writes_no_document_outside_the_export(tmp_path: Path, name: str) -> None:
    document = Document(name, "text/plain", b"evil")
    world = AuditWorld(tmp_path, FakeSource([[[event(1)]]], extra={0: (document,)}))
    with pytest.raises(HoldfastError):
        world.export(START.replace(hour=13))
    assert not list(tmp_path.rglob("*outside*"))


PEAK = """
import resource, sys
from pathlib import Path
from holdfast.engine.audit.segments import read_objects, read_raw
from holdfast.errors import HoldfastError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file = Path(sys.argv[2])
try:
    if sys.argv[1] == "raw":
        for _ in read_raw(file):
            pass
    else:
        read_objects(file)
except HoldfastError as error:
    print("refused", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak_mib(what: str, file: Path) -> tuple[bool, int]:
    """Whether it was refused, and how much more memory a process of its own used."""
    command: Sequence[str] = (sys.executable, "-c", PEAK, what, str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=os.environ)
    *said, peak = done.stdout.splitlines()
    return bool(said), int(peak)


def test_a_dictionary_bomb_of_events_is_read_a_few_at_a_time(tmp_path: Path) -> None:
    """One large event, named three thousand times: a file of a few kilobytes, more than a gigabyte at once."""
    file = tmp_path / "bomb.parquet"
    one = pa.DictionaryArray.from_arrays(
        pa.array([0] * 3_000, pa.int32()), pa.array([b"x" * 400_000], pa.large_binary())
    )
    pq.write_table(pa.table({"raw": one}), file, compression="zstd", use_dictionary=["raw"], store_schema=False)
    assert file.stat().st_size < 100_000
    refused, more = peak_mib("raw", file)
    assert not refused
    assert more < 500


def test_a_column_that_inflates_without_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.engine.audit.segments._MOST_COLUMN_BYTES", 1 << 20)
    file = tmp_path / "bomb.parquet"
    large = pa.table({"raw": [bytes(2 << 20)], **{name: pa.nulls(1) for name in OBJECTS_SCHEMA.names}})
    pq.write_table(large, file, compression="zstd", use_dictionary=False)
    assert file.stat().st_size < 20_000
    for read in (lambda: list(read_raw(file)), lambda: read_objects(file)):
        with pytest.raises(Tampered, match="far too large"):
            read()


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"other": [1]}), file)
    for read in (lambda: list(read_raw(file)), lambda: read_objects(file)):
        with pytest.raises(Tampered, match="columns are missing"):
            read()


def test_a_batch_of_events_holds_one_row_group_at_most(tmp_path: Path) -> None:
    """Else a file of many groups, each of one large event, would be held whole."""
    file = tmp_path / "many.parquet"
    rows = pa.table({"raw": pa.array([bytes(1000)] * 10, pa.large_binary())})
    pq.write_table(rows, file, row_group_size=1, use_dictionary=False)
    assert [len(batch) for batch in read_raw(file)] == [1] * 10


@pytest.mark.parametrize("column", ["object_id", "prefix", "suffix"])
def test_a_dictionary_bomb_of_objects_is_refused(tmp_path: Path, column: str) -> None:
    file = tmp_path / "bomb.parquet"
    field = OBJECTS_SCHEMA.field(column)
    value = "x" * 1_000_000 if column == "object_id" else b"x" * 1_000_000
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array([value], field.type))
    whole = {"object_id": "o", "rows": 0, "size_bytes": 0, "sha256": bytes(32)} | dict.fromkeys(
        ("prefix", "separator", "suffix"), b""
    )
    columns = {
        other.name: one if other.name == column else pa.repeat(pa.scalar(whole[other.name], other.type), 20_000)
        for other in OBJECTS_SCHEMA
        if other.name in whole
    }
    rest = {other.name: pa.nulls(20_000, other.type) for other in OBJECTS_SCHEMA if other.name not in whole}
    table = pa.table({name: {**columns, **rest}[name] for name in OBJECTS_SCHEMA.names})
    pq.write_table(table, file, compression="zstd", store_schema=False)
    assert file.stat().st_size < 100_000
    assert peak_mib("objects", file) == (True, pytest.approx(0, abs=128))


def test_a_footer_that_lies_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"raw": pa.array([b"x"], pa.large_binary())}), file)
    data = bytearray(file.read_bytes())
    data[-8:-4] = (0x7FFFFFFF).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises((pa.ArrowException, OSError, HoldfastError)):
        list(read_raw(file))


def test_what_we_write_ourselves_is_not_taken_for_a_bomb(world: AuditWorld, export: Path) -> None:
    (events,) = (export / "segments").rglob("000000.parquet")
    (objects,) = (export / "segments").rglob("000000.objects.parquet")
    assert sum(map(len, read_raw(events))) == sum(rows for _, rows in read_objects(objects)) == 3
    assert json.loads((export / "manifest.json").read_bytes())["segments"][0]["rows"] == 3
