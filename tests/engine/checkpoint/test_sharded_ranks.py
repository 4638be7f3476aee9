"""What the ranks agree on, with threads for ranks: one answer, or one error, at all of them."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from engine.checkpoint.worlds import OrderedFaults, manifest_of, write
from holdfast.engine.checkpoint import CheckpointError, CheckpointFailed, Fenced, elect
from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.errors import StopRequested
from holdfast.engine.checkpoint.format import BlobRef, blob_key, digest_of
from holdfast.engine.checkpoint.guard import AlwaysGranted
from holdfast.engine.checkpoint.sharded.election import elect_together
from holdfast.engine.checkpoint.sharded.errors import told_by_dcp
from holdfast.engine.checkpoint.sharded.ranks import Ranks, retold, told
from holdfast.engine.checkpoint.sharded.saver import fingerprint_of
from holdfast.engine.checkpoint.sharded.votes import Votes, ask
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.engine.snapshot.errors import EpochUnknownHere

WORLD = 3


class Threads(Ranks):
    """Ranks that are threads of one process; what they exchange goes through JSON as it does between processes."""

    def __init__(self, rank: int, meeting: threading.Barrier, board: list[str]) -> None:
        super().__init__(rank, WORLD, group="threads")
        self._meeting, self._board = meeting, board

    def exchange(self, value: Any) -> list[Any]:
        self._board[self.rank] = json.dumps(value)
        self._meeting.wait(20)
        found = [json.loads(one) for one in self._board]
        self._meeting.wait(20)
        return found

    def most(self, numbers: Any) -> list[int]:
        return [max(column) for column in zip(*self.exchange(list(numbers)), strict=True)]


def at_every_rank(work: Callable[[Ranks], Any]) -> list[Any]:
    """What each rank returns, or the error it raises."""
    meeting, board = threading.Barrier(WORLD), [""] * WORLD

    def rank(number: int) -> Any:
        try:
            return work(Threads(number, meeting, board))
        except Exception as error:
            return error

    with ThreadPoolExecutor(WORLD) as threads:
        return list(threads.map(rank, range(WORLD)))


def test_what_one_rank_meets_all_raise_with_its_number() -> None:
    def refused(ranks: Ranks) -> Any:
        return ranks.together(lambda: 1 // int(ranks.rank != 2) if ranks.rank else fence())

    def fence() -> None:
        raise Fenced("this epoch is over", where="run", fix="Leave")

    errors = at_every_rank(refused)
    assert [type(error) for error in errors] == [Fenced] * WORLD
    assert {str(error) for error in errors} == {"rank 0: run: this epoch is over. Leave"}


def test_an_error_that_is_not_ours_is_told_as_one_that_is() -> None:
    errors = at_every_rank(lambda ranks: ranks.together(lambda: 1 // ranks.rank))
    assert {(error.where, error.found) for error in errors} == {
        ("rank 0", "ZeroDivisionError: integer division or modulo by zero")
    }


def test_a_retold_error_keeps_its_kind_and_its_facts() -> None:
    told_once = StopRequested("asked to leave", where="run", expected="a", found="b", fix="c")
    again = retold(json.loads(json.dumps(told(told_once))))
    assert (type(again), again.as_dict(), again.exit_code) == (StopRequested, told_once.as_dict(), 75)
    assert type(retold({"error": "os.system", "what": "x"})) is CheckpointError


def test_a_vote_is_what_any_rank_says() -> None:
    def vote(ranks: Ranks) -> Any:
        mine = {"stop": 0, "busy": 1}
        names = [field.name for field in dataclasses.fields(Votes)]
        facts = {name: mine.get(name) == ranks.rank for name in names}
        return ask(ranks, step=4, **facts)

    votes = at_every_rank(vote)
    assert votes == [votes[0]] * WORLD
    assert (votes[0].stop, votes[0].busy, votes[0].wanted) == (True, True, False)


def test_ranks_at_different_steps_are_told_so() -> None:
    for error in at_every_rank(lambda ranks: ask(ranks, step=4 + ranks.rank // 2)):
        assert isinstance(error, CheckpointError)
        assert error.found == "steps from 4 to 5"


def test_a_fingerprint_is_of_all_ranks() -> None:
    alike, other = {"isa": "avx2"}, {"isa": "avx512"}
    assert fingerprint_of([alike, alike]) == {"isa": "avx2", "world": "2"}
    assert fingerprint_of([alike, alike]) != fingerprint_of([alike, alike, alike])
    mixed = fingerprint_of([alike, other])
    assert mixed["ranks_differ"] != fingerprint_of([alike, alike, other])["ranks_differ"]
    assert mixed != fingerprint_of([alike, alike])


def test_of_several_ranks_errors_the_one_that_ends_the_run_is_told() -> None:
    failures = {
        0: (StoreUnavailable("the store is away"), None),
        1: (PermissionRefused("not allowed", where="bucket"), None),
        2: (RuntimeError("other"), None),
    }
    found = told_by_dcp(SimpleNamespace(failures=failures), CheckpointFailed, "the ranks could not save")
    assert (type(found), str(found)) == (PermissionRefused, "rank 1: bucket: not allowed")


# -- electing together ------------------------------------------------------------------------------------------------


def run_of(steps: int) -> ObjectStore:
    store, parent = memory_store(), None
    for step in range(1, steps + 1):
        parent = write(store, step, parent=parent)
    return store


def election(store_of: Callable[[int], ObjectStore], *, epoch: int = 1) -> list[Any]:
    return at_every_rank(
        lambda ranks: elect_together(
            ranks, store_of(ranks.rank), "run", epoch=epoch, site=None, fingerprint={"isa": "avx2"}
        )
    )


def test_every_rank_gets_the_election_one_process_would_have_made() -> None:
    store = run_of(3)
    newest = elect(store, "run", epoch=1).manifest
    assert newest is not None
    store.put(blob_key("run", newest.model_digest), b"damaged")
    alone = elect(store, "run", epoch=1, fingerprint={"isa": "avx2"})
    assert alone.step == 2
    assert election(lambda _rank: store) == [alone] * WORLD


def test_a_run_without_checkpoints_begins_from_the_start_at_every_rank() -> None:
    assert [one.resume for one in election(lambda _rank: memory_store())] == ["from the start"] * WORLD


def test_each_blob_is_read_by_one_rank() -> None:
    store, reads = run_of(1), []

    class Counting(OrderedFaults):
        def open(self, key: str, **settings: Any) -> Any:
            reads.append(key)
            return super().open(key, **settings)

    election(lambda _rank: Counting(store))
    assert len(reads) == 1


def test_a_store_that_does_not_answer_one_rank_stops_all() -> None:
    store = run_of(1)

    def store_of(rank: int) -> ObjectStore:
        faulty = OrderedFaults(store)
        faulty.down = rank == 0
        return faulty

    assert [type(one) for one in election(store_of)] == [StoreUnavailable] * WORLD


def test_a_follower_whose_read_fails_stops_all() -> None:
    store = memory_store()
    blobs = {f"part-{number}": f"part {number}".encode() for number in range(WORLD)}
    references = {name: BlobRef(digest=digest_of(data), size_bytes=len(data)) for name, data in blobs.items()}
    manifest = manifest_of(1, blobs=references)[0].model_copy(
        update={"model": ("part-0",), "model_digest": references["part-0"].digest}
    )
    write_checkpoint(store, manifest, blobs, guard=AlwaysGranted())

    def store_of(rank: int) -> ObjectStore:
        faulty = OrderedFaults(store)
        faulty.down = rank == 2
        return faulty

    errors = election(store_of)
    assert [type(one) for one in errors] == [StoreUnavailable] * WORLD
    assert all("rank 2" in str(one) for one in errors)


def test_an_epoch_unknown_here_is_refused_at_every_rank() -> None:
    store = run_of(1)
    assert [type(one) for one in election(lambda _rank: store, epoch=2)] == [EpochUnknownHere] * WORLD


@pytest.mark.parametrize("at", [0, 2], ids=["the leader", "a follower"])
def test_an_error_nobody_foresaw_at_one_rank_leaves_no_other_waiting(at: int) -> None:
    store = memory_store()
    blobs = {f"part-{number}": f"part {number}".encode() for number in range(WORLD)}
    references = {name: BlobRef(digest=digest_of(data), size_bytes=len(data)) for name, data in blobs.items()}
    manifest = manifest_of(1, blobs=references, model=b"")[0].model_copy(
        update={"model": ("part-0",), "model_digest": references["part-0"].digest}
    )
    write_checkpoint(store, manifest, blobs, guard=AlwaysGranted())

    class Broken(OrderedFaults):
        def open(self, key: str, **settings: Any) -> Any:
            raise ZeroDivisionError(key)

    class BrokenList(OrderedFaults):
        def list(self, prefix: str = "", **settings: Any) -> Any:
            raise ZeroDivisionError(prefix)

    broken = BrokenList if at == 0 else Broken
    errors = election(lambda rank: broken(store) if rank == at else store)
    assert not any(isinstance(one, threading.BrokenBarrierError) for one in errors)
    assert all("ZeroDivisionError" in f"{type(one).__name__} {one}" for one in errors)
