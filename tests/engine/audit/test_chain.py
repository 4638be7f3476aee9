"""Several exports as one log: what lies beside them, what is named twice, what may not be read."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import audit_second_verifier as second
from audit_world import HOUR, AuditWorld, FakeSource, event
from holdfast.engine.audit.chain import exports_below, read_checkpoint, verify_exports
from holdfast.engine.audit.errors import NotKnown
from holdfast.engine.audit.manifest import UNLISTED
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.verify import verify_export
from holdfast.errors import ConfigError


class Log:
    """Three exports in one folder."""

    def __init__(self, folder: Path) -> None:
        self.world = AuditWorld(folder, FakeSource([[[event(10 * hour + n) for n in range(4)]] for hour in range(9)]))
        self.folder = folder / "exports"
        for number in range(3):
            done = self.world.export()
            assert done.folder is not None
            self.folder.mkdir(exist_ok=True)
            done.folder.rename(self.folder / str(number))
            self.world.clock.advance(2 * HOUR.total_seconds())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


@pytest.fixture
def copy(log: Log, tmp_path: Path) -> Path:
    return Path(shutil.copytree(log.folder, tmp_path / "exports"))


def verified(log: Log, *paths: Path) -> Answer:
    """As the command does it; the second verifier says the same."""
    notes: list[str] = []
    folders = exports_below(*paths, note=notes.append)
    answer, _ = verify_exports(folders, trusted=[log.world.key])
    answer.notes += notes
    assert second.verify(folders, [str(log.world.key)])[0] == answer.verdict
    return answer


@pytest.mark.parametrize("name", sorted(UNLISTED - {"checkpoint.tsr"}))
def test_half_an_export_beside_others_is_not_passed_over(log: Log, copy: Path, name: str) -> None:
    (copy / "1" / name).unlink()
    assert verified(log, copy).verdict == "tampered"


def test_the_events_alone_are_not_passed_over(log: Log, copy: Path) -> None:
    for name in UNLISTED:
        (copy / "1" / name).unlink(missing_ok=True)
    assert verified(log, copy).verdict == "tampered"


def test_what_lies_beside_exports_is_told(log: Log, copy: Path) -> None:
    (copy / "readme.txt").write_text("no export")
    (copy / "other").mkdir()
    answer = verified(log, copy)
    assert answer.verdict == "fine"
    assert [note.rpartition("/")[2] for note in answer.notes] == ["other", "readme.txt"]
    assert verified(log, copy / "0").notes == []


def test_a_folder_without_any_export_is_none(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="no export here"):
        exports_below(tmp_path)


def test_an_export_that_is_named_twice_or_copied_counts_once(log: Log, copy: Path, tmp_path: Path) -> None:
    whole = verified(log, copy).counts
    assert whole["events"] == 28
    assert verified(log, copy, copy / "1", copy.parent / "exports").counts == whole
    shutil.copytree(copy / "1", tmp_path / "again")
    assert verified(log, copy, tmp_path / "again").counts == whole


@contextmanager
def without_root_s_rights() -> Iterator[None]:
    """Root reads whatever it likes; for a moment it does not (capset(2): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    if os.geteuid():
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b110
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.mark.parametrize(
    "name", ["checkpoint", "manifest.json", "segments/fake/000000.parquet", "segments/fake", "documents", "."]
)
def test_what_may_not_be_read_is_unknown_and_told(log: Log, copy: Path, name: str) -> None:
    (copy / "1" / "documents").mkdir(exist_ok=True)
    (copy / "1" / name).chmod(0)
    try:
        with without_root_s_rights():
            answer = verified(log, copy / "1")
            with pytest.raises(NotKnown, match="cannot be read whole"):
                verify_export(copy / "1", trusted=[log.world.key]).sealed("can be proven")
    finally:
        (copy / "1" / name).chmod(0o755)
    assert (answer.verdict, answer.exit_code) == ("unknown", 7)
    assert {problem.found for problem in answer.problems} == {"Permission denied"}
    assert len(answer.problems) == 1
    assert name in f"{answer.problems[0].where}/."


@pytest.mark.parametrize("data", [b"", b"no note\n", b"a\n1\nc\n\n\xe2\x80\x94 b AAAAAAA=\n", b"\xff" * 9])
def test_what_is_remembered_must_be_a_checkpoint(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "kept"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        read_checkpoint(file)
    assert refused.value.where == str(file)
    assert refused.value.expected
    assert refused.value.found
