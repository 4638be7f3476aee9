"""Whether a process goes on from what the orchestrator elected: told where not, and never an error."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.worlds import OrderedFaults, write
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import Checkpointer, Election, elect, fork_run
from holdfast.engine.checkpoint.environment import TrainingEnvironment
from holdfast.engine.checkpoint.expected import difference, expected_facts
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.objectstore import ObjectStore, memory_store


def chain(store: ObjectStore, *steps: int, epoch: int = 1, parent: CheckpointManifest | None = None) -> list[Any]:
    made = []
    for step in steps:
        parent = write(store, step, epoch=epoch, parent=parent)
        made.append(parent)
    return made


def fork(store: ObjectStore, election: Election) -> None:
    fork_run(
        store,
        "run",
        epoch=2,
        parent_epoch=1,
        election=election,
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        clock=FakeClock(),
    )


def damage(store: ObjectStore, manifest: CheckpointManifest) -> None:
    for blob in manifest.blobs.values():
        store.delete(blob_key("run", blob.digest))


def test_what_was_elected_and_what_descends_from_it_are_no_difference() -> None:
    store = memory_store()
    made = chain(store, *range(10, 400, 10))  # more than the ancestors that a manifest names
    election = elect(store, "run", epoch=1)
    for expected in (made[-1], made[-2], made[0]):
        assert difference(store, election, expected.digest) is None
    assert expected_facts(store, election, None) is None
    assert expected_facts(store, election, made[0].digest) == {"manifest": made[0].digest, "difference": None}


def test_an_older_one_although_the_expected_one_is_there_says_why() -> None:
    store = memory_store()
    _, last = chain(store, 10, 20)
    damage(store, last)
    said = difference(store, elect(store, "run", epoch=1), last.digest)
    assert said is not None
    assert "step 10 of epoch 1, not from step 20" in said
    assert "blob" in said or "missing" in said


def test_the_start_instead_of_the_expected_one_is_a_difference() -> None:
    store = memory_store()
    (only,) = chain(store, 10)
    damage(store, only)
    said = difference(store, elect(store, "run", epoch=1), only.digest)
    assert said is not None
    assert said.startswith("it goes on from the start, not from step 10")


def test_another_line_than_the_expected_one_is_a_difference() -> None:
    store = memory_store()
    _, at_fork = chain(store, 10, 20)
    fork(store, elect(store, "run", epoch=1))
    (stale,) = chain(store, 30, parent=at_fork)
    said = difference(store, elect(store, "run", epoch=2), stale.digest)
    assert said == "it goes on from step 20 of epoch 1: the expected one is not here"
    chain(store, 25, epoch=2)  # of no parent: it does not descend from the fork's
    said = difference(store, elect(store, "run", epoch=2), at_fork.digest)
    assert said is not None
    assert "which it does not descend from" in said


def test_an_expected_one_that_was_collected_since_is_no_difference() -> None:
    store = memory_store()
    first, *_ = chain(store, 10, 20, 30)
    store.delete(first.key)
    chain(store, *range(40, 400, 10), parent=elect(store, "run", epoch=1).manifest)
    assert difference(store, elect(store, "run", epoch=1), first.digest) is None


def test_a_bucket_that_does_not_answer_leaves_it_open() -> None:
    store = OrderedFaults(memory_store())
    chain(store, 10)  # type: ignore[arg-type]
    election = elect(store, "run", epoch=1)  # type: ignore[arg-type]
    store.down = True
    told = expected_facts(store, election, "blake3:" + "0" * 64)  # type: ignore[arg-type]
    assert told is not None
    assert told["difference"].startswith("not known")


def test_the_heartbeat_and_the_log_tell_a_difference_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = memory_store()
    _, last = chain(store, 10, 20)
    damage(store, last)
    settings = {"epoch": 1, "site": "site-a", "every_steps": 10, "heartbeat": tmp_path / "beat.json"}
    it = Checkpointer(store, "run", resume_from=last.digest, **settings)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        resumed = it.resume()
    assert resumed is not None
    assert resumed.step == 10
    told = json.loads((tmp_path / "beat.json").read_text())["resumed"]["expected"]
    assert told["manifest"] == last.digest
    assert "not from step 20" in told["difference"]
    assert last.digest in caplog.text
    with it:
        it.step(11, TrainingState({"model.bin": b"x"}, {}))
        assert it.finish(TrainingState({"model.bin": b"x"}, {})).manifest.parent == resumed.manifest.digest


@pytest.mark.parametrize(("said", "read"), [("blake3:ab", "blake3:ab"), ("", None), (None, None)])
def test_the_environment_says_what_was_elected(said: str | None, read: str | None) -> None:
    environ = {"HOLDFAST_EPOCH": "1", **{f"HOLDFAST_{name}": "x" for name in ("RUN", "SITE", "GROUP", "JOB")}}
    if said is not None:
        environ["HOLDFAST_RESUME_FROM"] = said
    assert TrainingEnvironment.read(environ).resume_from == read
