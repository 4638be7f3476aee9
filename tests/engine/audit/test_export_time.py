"""The timestamp of an export's checkpoint, by an authority on loopback (OpenSSL's)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import audit_second_verifier as second
from audit_world import HOUR, AuditWorld, FakeSource, event
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.tlog.timestamps import fetch_timestamp
from holdfast.engine.audit.verify import verify_export
from timestamp_authority import TimestampAuthority

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the authority is OpenSSL's")


class Stamped:
    """Two exports, each with a timestamp."""

    def __init__(self, folder: Path, authority: TimestampAuthority) -> None:
        self.world = AuditWorld(folder, FakeSource([[[event(n)]] for n in range(9)]))
        self.root = authority.root
        self.folders = []
        for _ in range(2):
            done = self.world.export()
            assert done.folder is not None
            note = (done.folder / "checkpoint").read_bytes()
            (done.folder / "checkpoint.tsr").write_bytes(fetch_timestamp(authority.url, note, [authority.root]))
            self.folders.append(done.folder)
            self.world.clock.advance(HOUR.total_seconds())

    def verify(self, folder: Path, *roots: bytes) -> Answer:
        """Both verifiers, where neither has the authority's certificates."""
        answer = verify_export(folder, trusted=[self.world.key], time_roots=roots).answer
        if not roots:
            assert second.verify([folder], [str(self.world.key)])[0] == answer.verdict
        return answer


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stamped]:
    authority = TimestampAuthority(tmp_path_factory.mktemp("authority"))
    yield Stamped(tmp_path_factory.mktemp("world"), authority)
    authority.close()


@pytest.fixture
def copy(stamped: Stamped, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stamped.folders[0], tmp_path / "copy"))


def test_without_certificates_a_note_says_what_was_not_looked_at(stamped: Stamped, copy: Path) -> None:
    answer = stamped.verify(copy)
    assert answer.problems == []
    assert "was not looked at" in answer.notes[0]
    assert "existed at" in stamped.verify(copy, stamped.root).notes[0]


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x30\x03\x02\x01\x00", "the other's", "of the manifest"])
def test_what_is_no_timestamp_of_the_checkpoint_is_tampered(stamped: Stamped, copy: Path, junk: bytes | str) -> None:
    file = copy / "checkpoint.tsr"
    match junk:
        case "the other's":
            file.write_bytes((stamped.folders[1] / "checkpoint.tsr").read_bytes())
        case "of the manifest":
            file.write_bytes(hashlib.sha256((copy / "manifest.json").read_bytes()).digest())
        case bytes():
            file.write_bytes(junk)
    for roots in ((), (stamped.root,)):
        answer = stamped.verify(copy, *roots)
        assert [(problem.code, problem.kind) for problem in answer.problems] == [("timestamp", "tampered")]


def test_one_that_was_taken_away_is_unknown_to_who_wants_one(stamped: Stamped, copy: Path) -> None:
    (copy / "checkpoint.tsr").unlink()
    assert stamped.verify(copy).problems == []
    assert stamped.verify(copy, stamped.root).exit_code == 7
