"""A training that nobody orchestrates: a folder, plain python, the same bytes however often it was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from engine.training.killing import EXAMPLES, REPOSITORY, trained
from engine.training.manual import as_the_manual_says
from holdfast.engine.checkpoint import CheckpointError, TrainingState, elect
from holdfast.engine.local_training import LocalTraining
from holdfast.engine.objectstore import local_store
from holdfast.errors import ConfigError

TRANSFORMER = "volatility-transformer"


def parquet(path: Path, **columns: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    parquet(tmp_path / "data" / "year=2001" / "days.parquet", x=[3.0])
    parquet(tmp_path / "data" / "year=2000" / "days.parquet", x=[1.0, 2.0])
    return tmp_path / "data"


def opened(folder: Path, data: Path, **more: Any) -> LocalTraining:
    return LocalTraining.open(folder, data=data, **{"steps": 4, "every_steps": 2, "seed": 7, **more})


def run(training: LocalTraining) -> str:
    """Train to the end and publish; how it resumed."""
    state = TrainingState({"model.bin": b"weights"})
    resumed = training.checkpointer.resume()
    with training.checkpointer as checkpointer:
        for step in range(resumed.step + 1 if resumed else 1, training.steps + 1):
            checkpointer.step(step, state)
        training.publish_model({"model.bin": b"weights", "about/it.json": b"{}"}, checkpointer.finish(state))
    training.close()
    return resumed.resume if resumed else "from the start"


def test_files_are_read_in_the_order_of_their_paths_and_gain_no_column(tmp_path: Path, data: Path) -> None:
    table = opened(tmp_path / "run", data).dataset()
    assert table.to_pydict() == {"x": [1.0, 2.0, 3.0]}


def test_a_run_publishes_into_its_folder_and_a_second_start_finds_it_done(tmp_path: Path, data: Path) -> None:
    assert run(opened(tmp_path / "run", data)) == "from the start"
    (tmp_path / "run" / "model" / "model.bin").unlink()
    assert run(opened(tmp_path / "run", data)) == "bitwise"
    assert (tmp_path / "run" / "model" / "model.bin").read_bytes() == b"weights"
    assert (tmp_path / "run" / "model" / "about" / "it.json").read_bytes() == b"{}"
    beat = json.loads((tmp_path / "run" / "heartbeat.json").read_text())
    assert (beat["state"], beat["step"], beat["published"]["folder"]) == (
        "finished",
        4,
        str(tmp_path / "run" / "model"),
    )


def test_other_data_and_another_precision_are_not_called_bitwise(tmp_path: Path, data: Path) -> None:
    for number, precision in enumerate(("float32", "bfloat16")):
        folder = tmp_path / f"run-{number}"
        run(opened(folder, data, fingerprint={"precision": "float32"}))
        if precision == "float32":
            parquet(data / "year=2002" / "days.parquet", x=[4.0])
        assert run(opened(folder, data, fingerprint={"precision": precision})) == "numerically equivalent"


def test_a_folder_has_one_writer(tmp_path: Path, data: Path) -> None:
    first = opened(tmp_path / "run", data)
    with pytest.raises(ConfigError, match="another process trains in this folder"):
        opened(tmp_path / "run", data)
    first.close()
    opened(tmp_path / "run", data).close()


def test_a_refused_start_leaves_the_folder_free(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError):
        opened(tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="save mode"):
        opened(tmp_path / "run", data, mode="sometimes")
    opened(tmp_path / "run", data)


def test_data_or_steps_that_cannot_be_are_refused_with_their_place(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        opened(tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"lacks columns; expected y; found x"):
        opened(tmp_path / "run", data, columns=["x", "y"])
    with pytest.raises(ConfigError, match="needs steps"):
        opened(tmp_path / "run", data, steps=0)
    parquet(data / "year=2003" / "days.parquet", y=[1.0])
    with pytest.raises(ConfigError, match="do not make one table"):
        opened(tmp_path / "run", data)
    (data / "year=2003" / "days.parquet").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"year=2003/days.parquet: a file is no Parquet"):
        opened(tmp_path / "run", data)


def example(script: str, *before: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The example as ``__main__``, after some lines of Python."""
    lines = [*before, "import runpy, sys", f"sys.argv[1:] = {list(arguments)!r}"]
    lines += [
        f"sys.path.insert(0, {str(EXAMPLES)!r})",
        f"runpy.run_path({str(EXAMPLES / script)!r}, run_name='__main__')",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_the_transformer_without_its_extra_says_which_one_to_install(library: str) -> None:
    ended = example("volatility_transformer.py", f"import sys; sys.modules[{library!r}] = None")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ConfigError: volatility_transformer.py: this trainer's libraries are not installed")
    assert line.endswith("pip install 'holdfast[torch]'")


def test_the_market_data_without_its_extra_says_which_one_to_install(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    arguments = ("--folder", str(tmp_path / "run"))
    ended = example("volatility.py", "import sys; sys.modules['arch'] = None", arguments=arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "pip install 'holdfast[sandbox]'" in line


def test_a_trainer_that_nobody_started_names_both_ways_to_start_it() -> None:
    pytest.importorskip("xgboost")
    ended = example("volatility.py")
    assert ended.returncode == 2
    assert "HOLDFAST_RUN is not set" in ended.stderr
    assert "--folder" in ended.stderr


def test_trees_with_plain_python_killed_twice_are_those_nobody_disturbed(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    pytest.importorskip("arch")
    arguments = ("--steps", "30", "--every", "5")
    trained("volatility.py", "--folder", str(tmp_path / "whole"), *arguments)
    killed = ("--folder", str(tmp_path / "killed"), *arguments)
    trained("volatility.py", *killed, kill=(8, 5))
    assert "step 5 of 30, bitwise" in trained("volatility.py", *killed, kill=(20, 15))
    assert " of 30, bitwise" in trained("volatility.py", *killed)
    assert (tmp_path / "killed/model/model.ubj").read_bytes() == (tmp_path / "whole/model/model.ubj").read_bytes()
    ends = [elect(local_store("run", tmp_path / one / "checkpoints"), "local", epoch=1) for one in ("whole", "killed")]
    assert ends[0].step == ends[1].step == 30
    assert ends[0].manifest is not None
    assert ends[1].manifest is not None
    assert ends[0].manifest.blobs == ends[1].manifest.blobs


def test_no_group_of_the_example_topology_trains_it_because_the_demo_does_without_torch() -> None:
    topology = yaml.safe_load((REPOSITORY / "include" / "holdfast.yaml").read_text())
    assert TRANSFORMER in topology["training"]
    assert [group["training"] for group in topology["groups"].values()] == [["volatility"]]
    as_the_manual_says(topology)
    assert topology["groups"]["market-risk"]["training"] == ["volatility", TRANSFORMER]
