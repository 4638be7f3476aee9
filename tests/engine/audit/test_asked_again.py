"""An hour of CloudTrail whose files were sealed before its digest came: two exports that are judged together."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audit_world import AuditWorld, FakeSource
from cloudtrail_world import HOUR, START, FakeTrailApi, Trail, TrailBucket
from holdfast.clock import FakeClock
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.export import export_audit
from holdfast.engine.audit.problems import Answer
from holdfast.engine.audit.sources.cloudtrail import CloudTrail


class Asked:
    """A trail, exported at the end of its first hour, before any digest, and after the second."""

    def __init__(self, folder: Path) -> None:
        self.world = AuditWorld(folder, FakeSource([]))
        trail = Trail()
        keys = [trail.log(START + timedelta(minutes=minute)) for minute in (5, 15)]
        self._export(trail, 1)
        trail.digest(START, START + HOUR, keys)
        trail.clock += HOUR
        trail.deliver()
        self._export(trail, 2)

    def _export(self, trail: Trail, hours: int) -> None:
        now = START + hours * HOUR + timedelta(minutes=30 * hours)
        self.world.clock = clock = FakeClock(now)
        source = CloudTrail("fake", trail.settings(), TrailBucket(trail), clock, api=FakeTrailApi())
        export_audit(
            self.world.runtime(),
            output=self.world.folder / f"export-{hours}",
            since=START,
            until=START + hours * HOUR,
            opener=lambda *_: source,
        )

    def verify(self, *numbers: int, **how: Any) -> Answer:
        folders = [self.world.folder / f"export-{number}" for number in numbers]
        return verify_exports(folders, trusted=[self.world.key], **how)[0]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked"))


def test_the_first_export_alone_is_late(asked: Asked) -> None:
    answer = asked.verify(1)
    assert (answer.exit_code, answer.sources["fake"]) == (6, "late")


def test_what_was_late_is_whole_with_the_export_that_has_its_digest(asked: Asked) -> None:
    for numbers in ((1, 2), (2, 1)):
        answer = asked.verify(*numbers)
        assert (answer.exit_code, answer.notes) == (0, []), [str(problem) for problem in answer.problems]


def test_files_that_an_earlier_export_holds_are_not_called_missing(asked: Asked) -> None:
    answer = asked.verify(2)
    assert answer.exit_code == 0, [str(problem) for problem in answer.problems]
    assert answer.notes == ["Unknown: whether 2 log files of fake that an earlier export holds are what AWS signed"]
