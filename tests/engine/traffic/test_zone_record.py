"""The switch of a traffic record as a protocol: over any provider, under races and lost answers."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Record
from holdfast.engine.traffic import StaleTrafficEpoch, TrafficState, TrafficUnavailable
from holdfast.engine.traffic.change import ChangeConflict, Held, RecordSet, ZoneRecord
from holdfast.errors import UnknownName

RECORD = Record(
    provider="cloud-dns",
    site="bb",
    connection="c",
    zone="z",
    name="svc.x.test.",
    type="CNAME",
    ttl_seconds=1,
    values={"aa": "a.x.test.", "bb": "b.x.test.", "cc": "c.x.test."},
)


class MemoryZone:
    """A provider as its documentation has it: a change is atomic, exact in what it deletes, and new in what it adds."""

    def __init__(self, before: Callable[[str], None] = lambda call: None) -> None:
        self.records: dict[tuple[str, str], RecordSet] = {}
        self.before = before
        self.lose: list[str] = []
        self._lock = threading.Lock()
        self.switches: list[str] = []

    def read(self, record_name: str, record_type: str, companion_name: str) -> Held:
        self.before("read")
        return Held(self.records.get((record_name, record_type)), self.records.get((companion_name, "TXT")))

    def replace(self, deletions: tuple[RecordSet, ...], additions: tuple[RecordSet, ...]) -> None:
        self.before("replace")
        how = self.lose.pop(0) if self.lose else "kept"
        if how == "request lost":
            raise TrafficUnavailable("no answer")
        with self._lock:
            left = dict(self.records)
            for one in deletions:
                if left.pop((one.name, one.type), None) != one:
                    raise ChangeConflict("not what is held")
            for one in additions:
                if (one.name, one.type) in left:
                    raise ChangeConflict("there already")
                left[one.name, one.type] = one
            self.records = left
            self.switches.append(additions[1].values[0])
        if how == "answer lost":
            raise TrafficUnavailable("no answer")


def record(zone: MemoryZone, timeout_seconds: float = 5.0) -> ZoneRecord:
    return ZoneRecord(RECORD, zone, timeout_seconds=timeout_seconds, clock=FakeClock())


def test_a_record_that_was_never_created_reads_as_none_and_is_created() -> None:
    zone = MemoryZone()
    assert record(zone).read() is None
    state = record(zone).switch("aa", epoch=1)
    assert state == record(zone).read() == TrafficState("aa", 1, ("a.x.test.",), 1)


def test_a_record_somebody_made_by_hand_is_taken_over() -> None:
    zone = MemoryZone()
    zone.records["svc.x.test.", "CNAME"] = RecordSet("svc.x.test.", "CNAME", 300, ("by-hand.test.",))
    assert record(zone).read() == TrafficState(None, 0, ("by-hand.test.",), 300)
    assert record(zone).switch("aa", epoch=1).site == "aa"


def test_a_switch_is_idempotent() -> None:
    zone = MemoryZone()
    for _ in range(3):
        assert record(zone).switch("aa", epoch=1).epoch == 1
    assert len(zone.switches) == 1


def test_a_value_that_drifted_is_set_right_within_its_epoch() -> None:
    zone = MemoryZone()
    record(zone).switch("aa", epoch=1)
    zone.records["svc.x.test.", "CNAME"] = RecordSet("svc.x.test.", "CNAME", 1, ("old-port.test.",))
    assert record(zone).switch("aa", epoch=1).values == ("a.x.test.",)


@pytest.mark.parametrize(("site", "epoch"), [("aa", 1), ("bb", 1), ("aa", 2)])
def test_a_stale_epoch_and_a_second_site_of_one_epoch_are_refused(site: str, epoch: int) -> None:
    zone = MemoryZone()
    record(zone).switch("bb", epoch=2)
    with pytest.raises(StaleTrafficEpoch):
        record(zone).switch(site, epoch=epoch)
    assert record(zone).read() == TrafficState("bb", 2, ("b.x.test.",), 1)


def test_a_lost_answer_is_not_taken_for_a_failure() -> None:
    zone = MemoryZone()
    zone.lose = ["answer lost"]
    assert record(zone).switch("aa", epoch=1).site == "aa"
    assert len(zone.switches) == 1


def test_a_lost_request_is_sent_again() -> None:
    zone = MemoryZone()
    zone.lose = ["request lost", "request lost"]
    assert record(zone).switch("aa", epoch=1).site == "aa"


def test_a_provider_that_never_answers_costs_the_budget_and_no_more() -> None:
    zone = MemoryZone()
    zone.lose = ["request lost"] * 1000
    clock = FakeClock()
    with pytest.raises(TrafficUnavailable, match="idempotent"):
        ZoneRecord(RECORD, zone, timeout_seconds=5.0, clock=clock).switch("aa", epoch=1)
    assert clock.monotonic() <= 5.0


def test_a_change_that_arrives_after_a_newer_epoch_is_harmless() -> None:
    zone = MemoryZone()
    record(zone).switch("aa", epoch=1)
    late = record(zone)._read().present, record(zone)._wanted("aa", 2).present
    record(zone).switch("bb", epoch=3)
    with pytest.raises(ChangeConflict):
        zone.replace(*late)
    assert record(zone).read() == TrafficState("bb", 3, ("b.x.test.",), 1)


def test_an_unknown_site_changes_nothing() -> None:
    zone = MemoryZone()
    with pytest.raises(UnknownName, match="atlantis"):
        record(zone).switch("atlantis", epoch=1)
    assert zone.records == {}


@pytest.mark.parametrize("seed", range(20))
def test_among_racing_switchers_the_newest_epoch_wins_and_none_goes_back(seed: int) -> None:
    rng = random.Random(seed)
    zone = MemoryZone(lambda call: threading.Event().wait(rng.random() / 500))
    zone.lose = [rng.choice(["kept", "answer lost", "request lost"]) for _ in range(20)]
    outcomes: dict[int, object] = {}

    def switch(epoch: int) -> None:
        racing = ZoneRecord(RECORD, zone, timeout_seconds=1e6, clock=FakeClock())
        try:
            outcomes[epoch] = racing.switch(("aa", "bb", "cc")[epoch % 3], epoch=epoch)
        except StaleTrafficEpoch as error:
            outcomes[epoch] = error

    threads = [threading.Thread(target=switch, args=(epoch,)) for epoch in rng.sample(range(1, 9), 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert record(zone).read() == TrafficState("cc", 8, ("c.x.test.",), 1)
    epochs = [int(text.split("=")[1].split()[0]) for text in zone.switches]
    assert epochs == sorted(set(epochs)), "an epoch came back, or was applied twice"
    assert set(outcomes) == set(range(1, 9))
    # A switch that was overtaken while its answer was lost may be told so, but none is told done that was not.
    assert {e for e, found in outcomes.items() if isinstance(found, TrafficState)} <= set(epochs)
