"""The ranked register when stores are down, hang, lose answers or hold something else, and when writers contend."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from holdfast.engine.authority import Contended, EpochConflict, EpochState, NoMajority, RankedRegister
from holdfast.engine.authority.acceptor import AcceptorState, Ballot, decode, encode
from holdfast.engine.objectstore.errors import PreconditionFailed
from holdfast.errors import ConfigError

MakeRegister = Callable[..., RankedRegister]


def advance(register: RankedRegister, expected: int, site: str, plan: str = "plan-1") -> EpochState:
    return register.advance("risk", expected_epoch=expected, active_site=site, plan_id=plan, reason="a test")


def test_one_store_may_be_down(register: MakeRegister, stores) -> None:
    one = register()
    stores["gcp"].down = True
    state = advance(one, 0, "aws")
    stores["gcp"].down, stores["aws"].down = False, True
    assert register().read("risk") == state, "the one acceptor that has it is in every majority that is left"


def test_two_stores_down_is_no_majority_and_nobody_acts(register: MakeRegister, stores) -> None:
    advance(register(), 0, "aws")
    stores["gcp"].down = stores["aws"].down = True
    with pytest.raises(NoMajority, match=r"aws: StoreUnavailable.*gcp: StoreUnavailable") as caught:
        register(budget_seconds=0.3).read("risk")
    assert caught.value.transient
    with pytest.raises(NoMajority):
        advance(register(budget_seconds=0.3), 1, "gcp", "plan-2")


def test_a_hanging_store_delays_nobody(register: MakeRegister, stores) -> None:
    stores["aws"].hang = threading.Event()
    started = time.monotonic()
    state = advance(register(), 0, "gcp")
    assert register().read("risk") == state
    assert time.monotonic() - started < 2.0
    stores["aws"].hang.set()


def test_two_hanging_stores_end_with_the_budget(register: MakeRegister, stores) -> None:
    stores["aws"].hang = stores["gcp"].hang = threading.Event()
    started = time.monotonic()
    with pytest.raises(NoMajority, match=r"within 0\.4 s; found aws: no answer; gcp: no answer"):
        register(budget_seconds=0.4).read("risk")
    assert time.monotonic() - started < 2.0
    stores["aws"].hang.set()


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_lost_answer_is_resolved_by_reading(register: MakeRegister, stores, fate: str) -> None:
    for store in stores.values():
        store.lose = [fate, "", fate]
    state = advance(register(), 0, "aws")
    assert state.epoch == 1
    assert register().read("risk") == state
    assert advance(register(), 1, "gcp", "plan-2").epoch == 2


def test_a_settled_register_is_read_without_a_write(register: MakeRegister, stores) -> None:
    state = advance(register(), 0, "aws")
    _wait_until(lambda: all(s.puts == 2 for s in stores.values()))
    for _ in range(5):
        assert register().read("risk") == state
    with pytest.raises(EpochConflict):
        advance(register(), 0, "gcp", "plan-2")
    assert all(store.puts == 2 for store in stores.values())


def test_a_half_done_change_is_settled_by_the_next_reader(register: MakeRegister, stores) -> None:
    advance(register(), 0, "aws")
    _wait_until(lambda: all(s.puts == 2 for s in stores.values()))
    before = {site: dict(store.objects) for site, store in stores.items()}
    moved = advance(register(), 1, "gcp", "plan-2")
    _wait_until(lambda: all(s.puts == 4 for s in stores.values()))
    for site in ("gcp", "azure"):  # as if the writer had died after its first accept
        stores[site].objects = before[site]
    seen = register().read("risk")
    assert seen.epoch in (1, 2)
    for down in stores.values():
        down.down = True
        assert register().read("risk").epoch == seen.epoch, "what one reader saw, every later one sees"
        down.down = False
    assert seen.epoch == 1 or seen.write_id == moved.write_id


def test_something_else_at_the_acceptors_place_is_never_overwritten(register: MakeRegister, stores) -> None:
    stores["aws"].objects["authority/risk"] = b"<html>not an acceptor</html>"
    state = advance(register(), 0, "gcp")
    assert register().read("risk") == state
    assert stores["aws"].objects["authority/risk"] == b"<html>not an acceptor</html>"
    views = {view.site: view for view in register().inspect("risk")}
    assert "cannot be read" in views["aws"].detail
    stores["gcp"].down = True
    with pytest.raises(NoMajority, match="cannot be read"):
        register(budget_seconds=0.3).read("risk")


def test_of_many_contenders_exactly_one_gets_each_epoch(register: MakeRegister) -> None:
    advance(register(), 0, "aws")

    def contend(number: int) -> list[EpochState]:
        mine, won = register(f"holder-{number}", budget_seconds=30.0), []
        for turn in range(6):
            current = mine.read("risk")
            with suppress(EpochConflict):  # another one was faster
                won.append(advance(mine, current.epoch, ("aws", "gcp", "azure")[number % 3], f"plan-{number}-{turn}"))
        return won

    with ThreadPoolExecutor(5) as pool:
        won = [state for states in pool.map(contend, range(5)) for state in states]
    epochs = [state.epoch for state in won]
    assert len(epochs) == len(set(epochs)), "two contenders were given the same epoch"
    last = register().read("risk")
    assert max(epochs) <= last.epoch <= 1 + 5 * 6
    # A winner whose epoch was outlived before its answer came is told of the conflict: no epoch is given twice,
    # but not every epoch has somebody who knows he won it.
    assert last in won or last.epoch not in epochs


def test_contention_beyond_the_budget_says_so(register: MakeRegister, stores) -> None:
    def outrun(store) -> Callable:
        def put(key: str, data: bytes, **_: object) -> None:
            """A rival is always a ballot ahead."""
            ahead = AcceptorState(promised=Ballot(decode("risk", data).rank.round + 1, "rival"))
            store.objects[key] = encode("risk", ahead, "rival")
            raise PreconditionFailed("another version", where=key)

        return put

    for store in stores.values():
        store.put = outrun(store)
    with pytest.raises(Contended, match="Call again with the same arguments"):
        advance(register(budget_seconds=0.3), 0, "azure")


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_register_without_a_majority_to_spare_is_refused(count: int, stores) -> None:
    some = {f"site-{n}": next(iter(stores.values())) for n in range(count)}
    with pytest.raises(ConfigError, match="at least 3"):
        RankedRegister(some, holder="test", rng=random.Random(1))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
