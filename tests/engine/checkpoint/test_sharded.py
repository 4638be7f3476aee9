"""Sharded checkpoints: saved by four real processes over gloo, resumed by four, two, three or one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.checkpoint import CheckpointManifest, elect
from holdfast.engine.checkpoint.format import blob_key, digest_of
from holdfast.engine.checkpoint.sharded import SavedShards
from holdfast.engine.objectstore import local_store

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

HERE = Path(__file__).parent
STEPS = 8
Results = list[dict[str, Any]]


class Launcher:
    """Runs of `sharded_worker`, each rank a process forked by one server that imported PyTorch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(HERE.parents[1]), *sys.path])
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "sharded_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )

    def __call__(self, world: int, store: Path, *, seconds: float = 60, **plan: Any) -> Results:
        """What each rank says; none may still run when the time is over."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        store.mkdir(parents=True, exist_ok=True)
        request = {
            "world": world,
            "folder": str(folder),
            "seconds": seconds,
            "plan": {"steps": STEPS, "store": str(store), **plan},
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, "the server ended"
        for log in sorted(folder.glob("*.log")):
            if text := log.read_text(errors="replace"):
                print(f"--- {log.name}\n{text[-3000:]}")
        results = json.loads(answer)
        assert {"hung": True} not in results
        return results

    def well(self, world: int, store: Path, **plan: Any) -> Results:
        """A run that ends well at every rank."""
        results = self(world, store, **plan)
        assert [one.get("error") for one in results] == [None] * world
        return results

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("ranks"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def noisy(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """Four ranks, nobody disturbs them; they draw from every generator. And where their checkpoints lie."""
    store = tmp_path_factory.mktemp("noisy") / "store"
    return store, launch.well(4, store, kind="noisy")


@pytest.fixture(scope="module")
def plain(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The same without noise: what is trained does not depend on the number of ranks, but for rounding."""
    store = tmp_path_factory.mktemp("plain") / "store"
    return store, launch.well(4, store)


def steps_of(store: Path) -> list[int]:
    """The steps that have a manifest."""
    return sorted(int(path.name[:12]) for path in (store / "runs/run/checkpoints").glob("*.json"))


def newest(store: Path) -> CheckpointManifest:
    found = elect(local_store("site-a", store), "run", epoch=1).manifest
    assert found is not None
    return found


def copy_of(store: Path, target: Path) -> Path:
    return Path(shutil.copytree(store, target))


def flip(store: Path, name: str) -> None:
    """One bit of one blob of the newest checkpoint."""
    path = store / blob_key("run", newest(store).blobs[name].digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def the_error(results: Results) -> dict[str, Any]:
    """The one error of all ranks."""
    errors = [one["error"] for one in results]
    assert errors == [errors[0]] * len(results)
    return errors[0]


# -- what is resumed ----------------------------------------------------------------------------------------------


def test_a_rank_killed_while_it_saves_leaves_no_manifest_and_four_resume_bit_for_bit(
    launch: Launcher, tmp_path: Path, noisy: tuple[Path, Results]
) -> None:
    store, undisturbed = tmp_path / "store", noisy[1]
    ended = launch(4, store, kind="noisy", fault={"kind": "kill", "step": 6, "rank": 2})
    assert ended[2] is None
    assert [one["error"]["error"] for one in ended if one] == ["RankLost"] * 3
    assert steps_of(store) == [3]
    again = launch.well(4, store, kind="noisy")
    assert {json.dumps(one["resumed"]) for one in again} == {
        json.dumps({"step": 3, "resume": "bitwise", "passed_over": []})
    }
    for part in ("state", "statistics", "draws"):
        assert [one[part] for one in again] == [one[part] for one in undisturbed]
    assert [one["losses"] for one in again] == [one["losses"][3:] for one in undisturbed]


def test_each_rank_has_statistics_and_numbers_of_its_own(noisy: tuple[Path, Results]) -> None:
    for part in ("statistics", "draws"):
        assert len({json.dumps(one[part]) for one in noisy[1]}) == 4


def test_other_numbers_of_ranks_get_the_same_state_and_train_on(
    launch: Launcher, tmp_path: Path, plain: tuple[Path, Results]
) -> None:
    onward = launch.well(4, copy_of(plain[0], tmp_path / "undisturbed"), steps=STEPS + 8)
    assert onward[0]["resumed"]["resume"] == "bitwise"
    store, saved, losses, step = copy_of(plain[0], tmp_path / "store"), plain[1], [], STEPS
    for world in (2, 3, 1, 4):
        before = newest(store).digest
        now = launch.well(world, store, steps=step + 2, every=100)
        for one in now:
            assert one["resumed"] == {"step": step, "resume": "numerically equivalent", "passed_over": []}
            assert one["loaded"] == saved[0]["state"]
        assert newest(store).parent == before
        losses += now[0]["losses"]
        saved, step = now, step + 2
    assert losses == pytest.approx(onward[0]["losses"], rel=1e-4)


def test_another_world_draws_new_numbers_that_follow_from_seed_step_and_rank(
    launch: Launcher, tmp_path: Path, noisy: tuple[Path, Results]
) -> None:
    once, twice = (launch.well(2, copy_of(noisy[0], tmp_path / name), kind="noisy", draw=True) for name in ("a", "b"))
    assert [one["draws"] for one in once] == [one["draws"] for one in twice]
    drawn = [number for one in (*once, *noisy[1]) for number in one["draws"]]
    assert len(set(drawn)) == len(drawn)
    assert [one["statistics"] for one in once] == [noisy[1][0]["statistics"]] * 2


def test_replicas_of_ddp_resume_alone(launch: Launcher, tmp_path: Path) -> None:
    saved = launch.well(2, tmp_path / "two", kind="ddp")
    again = launch.well(2, copy_of(tmp_path / "two", tmp_path / "again"), kind="ddp", steps=STEPS + 2)
    alone = launch.well(1, copy_of(tmp_path / "two", tmp_path / "alone"), steps=STEPS + 2)
    assert again[0]["resumed"]["resume"] == "bitwise"
    assert again[0]["loaded"] == alone[0]["loaded"] == saved[0]["state"]
    assert again[0]["losses"] == pytest.approx(alone[0]["losses"], rel=1e-4)


def test_a_flipped_bit_is_passed_over_and_the_step_is_reached_again(
    launch: Launcher, tmp_path: Path, plain: tuple[Path, Results]
) -> None:
    store = copy_of(plain[0], tmp_path / "store")
    flip(store, "optimizer-r00002-000.safetensors")
    again = launch.well(2, store, steps=STEPS + 1)
    for one in again:
        assert one["resumed"]["step"] == 6
        assert one["resumed"]["passed_over"] == ["the blob of 'optimizer-r00002-000.safetensors' has another digest"]
    # Two ranks have other blobs than four: the step's key is taken, and the next one was saved instead.
    assert steps_of(store) == [3, 6, STEPS, STEPS + 1]
    assert newest(store).step == STEPS + 1


def test_what_a_script_without_ranks_reads_is_the_whole_state(plain: tuple[Path, Results]) -> None:
    store, saved = plain
    whole = SavedShards(local_store("site-a", store), newest(store)).whole()
    digests = {name: digest_of(one.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, one in whole.items()}
    assert digests == saved[0]["state"]


def test_an_ordinary_module_takes_the_whole_model_with_the_first_rank_s_statistics(
    noisy: tuple[Path, Results], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from engine.checkpoint.sharded_worker import Run
    from holdfast.engine.checkpoint.adapters.torch_sharded import whole_model

    store, saved = noisy
    model = whole_model(SavedShards(local_store("site-a", store), newest(store)))
    save_file(model, tmp_path / "model.safetensors")
    alone = Run("noisy", 0, 1)
    alone.module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected = {name: digest for name, digest in saved[0]["state"].items() if name.startswith("model.")}
    assert {name: digest for name, digest in alone.digests().items() if name in expected} == expected
    assert alone.statistics() == saved[0]["statistics"]


def test_a_standby_gets_the_checkpoint_and_two_ranks_resume_there(launch: Launcher, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    saved = launch.well(4, here, standby=str(there))
    assert [one["finished"] for one in saved] == [{"step": STEPS, "replicated": {"site-b": True}}] * 4
    again = launch.well(2, there, site="site-b", steps=STEPS + 1)
    assert again[1]["loaded"] == saved[0]["state"]


def test_a_state_is_as_of_its_step_though_the_store_takes_it_much_later(launch: Launcher, tmp_path: Path) -> None:
    store = tmp_path / "store"
    slow = launch.well(
        2,
        store,
        mode="copy",
        every=3,
        steps=5,
        digests_at=3,
        fault={"kind": "gate", "step": 3},
        open_gate_after=5,
        finish=False,
    )
    assert steps_of(store) == [3]
    again = launch.well(2, store, steps=4)
    assert again[0]["loaded"] == slow[0]["at"]
    assert again[0]["loaded"] != slow[0]["state"]


# -- what ends a run, at every rank alike -------------------------------------------------------------------------


def test_a_rank_whose_store_refuses_ends_all_with_its_error(launch: Launcher, tmp_path: Path) -> None:
    error = the_error(launch(4, tmp_path, mode="copy", fault={"kind": "refuse", "step": 3, "rank": 3}))
    assert error["error"] == "CheckpointFailed"
    assert "rank 3" in error["found"]
    assert steps_of(tmp_path) == []


def test_a_store_that_comes_back_gets_the_checkpoint_of_the_next_step(launch: Launcher, tmp_path: Path) -> None:
    results = launch.well(2, tmp_path, mode="copy", every=3, fault={"kind": "outage", "step": 3, "rank": 1, "puts": 1})
    assert results[0]["finished"]["step"] == STEPS
    assert steps_of(tmp_path)[-1] == STEPS
    assert 3 not in steps_of(tmp_path)


def test_blocking_holds_training_until_the_store_is_back(launch: Launcher, tmp_path: Path) -> None:
    launch.well(2, tmp_path, fault={"kind": "outage", "step": 3, "rank": 1, "puts": 2})
    assert steps_of(tmp_path) == [3, 6, STEPS]


def test_sigterm_at_one_rank_saves_and_stops_all(launch: Launcher, tmp_path: Path) -> None:
    results = launch(4, tmp_path, mode="copy", every=100, fault={"kind": "stop", "step": 4, "rank": 1})
    error = the_error(results)
    assert (error["error"], error["exit_code"], error["found"]) == ("StopRequested", 75, "step 4 is saved")
    assert [one["reached"] for one in results] == [4] * 4
    assert steps_of(tmp_path) == [4]


def test_sigterm_while_training_waits_for_the_store_leaves_with_the_step_it_is_at(
    launch: Launcher, tmp_path: Path
) -> None:
    fault = {"kind": "outage", "step": 3, "rank": 1, "puts": 10**6, "then_stop": True}
    error = the_error(launch(2, tmp_path, fault=fault))
    assert (error["error"], error["found"]) == ("StopRequested", "step 3 could not be saved in time; step 0 is")
    assert steps_of(tmp_path) == []


def test_nothing_is_committed_while_it_is_not_known_whether_the_epoch_counts(launch: Launcher, tmp_path: Path) -> None:
    results = launch.well(2, tmp_path, mode="copy", every=2, finish=False, fault={"kind": "held", "step": 1})
    assert results[0]["step"] == STEPS
    assert steps_of(tmp_path) == []


def test_an_epoch_that_is_over_ends_all_and_commits_nothing(launch: Launcher, tmp_path: Path) -> None:
    error = the_error(launch(4, tmp_path, fault={"kind": "fenced", "step": 3, "rank": 0}))
    assert (error["error"], error["exit_code"]) == ("Fenced", 76)
    assert steps_of(tmp_path) == []


def test_ranks_that_disagree_about_the_schedule_are_told_so(launch: Launcher, tmp_path: Path) -> None:
    error = the_error(launch(2, tmp_path, fault={"kind": "diverge", "step": 3, "rank": 1}))
    assert error["what"] == "the ranks do not have the same state"
    assert "scheduler" in error["found"]
    assert steps_of(tmp_path) == []


def test_a_tensor_that_is_not_sharded_and_differs_is_not_saved_once_for_all(launch: Launcher, tmp_path: Path) -> None:
    error = the_error(launch(2, tmp_path, kind="replicated", fault={"kind": "unequal", "step": 3, "rank": 1}))
    assert "differs between the ranks" in error["what"]
    assert "model.0" in error["where"]
    assert steps_of(tmp_path) == []


def test_an_adapter_that_breaks_at_one_rank_ends_all(launch: Launcher, tmp_path: Path) -> None:
    error = the_error(launch(2, tmp_path, fault={"kind": "breaks", "step": 3, "rank": 1}))
    assert "ZeroDivisionError" in error["found"]
    assert error["where"] == "rank 1"


def test_a_rank_that_does_not_come_in_time_is_lost(launch: Launcher, tmp_path: Path) -> None:
    results = launch(2, tmp_path, timeout_seconds=3, fault={"kind": "late", "step": 2, "rank": 1})
    assert [one["error"]["error"] for one in results] == ["RankLost", "RankLost"]
    assert results[0]["reached"] == 2


def test_only_rank_0_keeps_a_heartbeat(plain: tuple[Path, Results]) -> None:
    store, _ = plain
    assert [path.name for path in store.glob("heartbeat-*")] == ["heartbeat-0.json"]
    facts = json.loads((store / "heartbeat-0.json").read_text())
    assert (facts["state"], facts["step"], facts["checkpoint"]["step"]) == ("finished", STEPS, STEPS)
