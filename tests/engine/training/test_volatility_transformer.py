"""The example transformer with plain python: killed twice in each mode and precision, the same bytes; and it learns."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engine.training.killing import EXAMPLES, trained
from holdfast.engine.checkpoint import CheckpointManifest, elect
from holdfast.engine.checkpoint.adapters.torch import REST_BLOB
from holdfast.engine.checkpoint.format import blob_key
from holdfast.engine.local_training import LocalTraining
from holdfast.engine.objectstore import local_store

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]
pytest.importorskip("torch")
pytest.importorskip("arch")

SCRIPT = "volatility_transformer.py"
#: An epoch has 63 batches, so the run ends in its second one.
STEPS, EVERY = 80, 10


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    load("prepare_data").write(folder)
    return folder


class Run:
    """A run in a folder, of any number of processes."""

    def __init__(self, folder: Path, data: Path, *options: str, steps: int = STEPS) -> None:
        self.folder = folder
        self._arguments = (
            *("--folder", str(folder), "--data", str(data), "--steps", str(steps), "--every", str(EVERY)),
            *options,
        )

    def start(self, *options: str, kill: tuple[int, int] = (0, 0)) -> str:
        return trained(SCRIPT, *self._arguments, *options, kill=kill)

    def manifest(self) -> CheckpointManifest:
        found = elect(self._store(), "local", epoch=1).manifest
        assert found is not None
        return found

    def end(self) -> dict[str, Any]:
        """All that the last checkpoint holds, but the generators that nothing here seeds or asks."""
        manifest = self.manifest()
        assert manifest.step == STEPS
        digests = {name: blob.digest for name, blob in manifest.blobs.items() if name != REST_BLOB}
        assert {name.partition(".")[0].partition("-")[0] for name in digests} == {"model", "optimizer", "generators"}
        rest = json.loads(self._store().get(blob_key("local", manifest.blobs[REST_BLOB].digest)))
        del rest["python"], rest["numpy"]
        return digests | rest

    def model(self) -> bytes:
        return (self.folder / "model" / "model.safetensors").read_bytes()

    def described(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self.folder / "model" / "features.json").read_text())
        return described

    def _store(self) -> Any:
        return local_store("run", self.folder / "checkpoints")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Run]:
    runs = {
        "float32": Run(tmp_path_factory.mktemp("float32") / "run", data),
        "bfloat16": Run(tmp_path_factory.mktemp("bfloat16") / "run", data, "--bf16"),
    }
    for run in runs.values():
        assert f"step 0 of {STEPS}, from the start" in run.start()
    return runs


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        ("blocking", "float32"),
        ("blocking", "bfloat16"),
        ("copy", "float32"),
        ("copy", "bfloat16"),
        ("overlap", "float32"),
        ("overlap", "bfloat16"),
    ],
)
def test_a_run_killed_twice_ends_with_the_bytes_of_one_nobody_disturbed(
    mode: str, precision: str, undisturbed: dict[str, Run], data: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", data, "--mode", mode, *(["--bf16"] if precision == "bfloat16" else []))
    run.start(kill=(23, 20))
    # In the second epoch, straight after a checkpoint was taken: it is being copied or written, or already there.
    assert f"step 20 of {STEPS}, bitwise" in run.start(kill=(70, 60))
    assert run.manifest().step in (60, 70)
    assert f"step {run.manifest().step} of {STEPS}, bitwise" in run.start()
    assert run.end() == undisturbed[precision].end()
    assert run.model() == undisturbed[precision].model()


def test_a_precision_is_another_model_and_changing_it_or_the_schedule_is_told(
    undisturbed: dict[str, Run], data: Path, tmp_path: Path
) -> None:
    assert undisturbed["float32"].model() != undisturbed["bfloat16"].model()
    run = Run(tmp_path / "run", data)
    run.start(kill=(13, 10))
    assert "step 10 of 30, numerically equivalent" in run.start("--bf16", "--steps", "30")
    beat = json.loads((run.folder / "heartbeat.json").read_text())
    assert beat["resumed"]["differences"] == ["autocast: off -> bfloat16", f"schedule_steps: {STEPS} -> 30"]


def test_deterministic_operations_are_all_it_uses(undisturbed: dict[str, Run], data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", data, "--deterministic")
    run.start()
    assert run.manifest().fingerprint["torch_deterministic"] == "True"
    assert undisturbed["float32"].manifest().fingerprint["torch_deterministic"] == "False"


def test_it_learns_and_what_it_publishes_is_enough_to_forecast(data: Path, tmp_path: Path) -> None:
    import safetensors.torch

    run = Run(tmp_path / "run", data, steps=300)
    run.start()
    example = load("volatility_transformer")
    table = LocalTraining.open(tmp_path / "again", data=data, steps=1, every_steps=1, seed=0).dataset()
    described = run.described()
    begin = round(len(table) * 0.8)
    truth, inputs = table[example.TARGET].to_numpy()[begin:], table.select(described["features"])

    def deviance(forecasts: np.ndarray) -> float:
        return float(2 * np.mean(np.log(forecasts / truth) + truth / forecasts - 1))

    # By what lies in its folder alone, as somebody who was given the model would.
    raw = np.column_stack([column.to_numpy() for column in inputs.columns])
    scaled = (np.arcsinh(raw) - described["mean"]) / described["scale"]
    days = example.torch.from_numpy(np.nan_to_num(scaled).astype("float32"))
    windows = days.unfold(0, described["days"], 1).transpose(1, 2)[-len(truth) :]
    model = example.Forecaster(len(described["features"])).eval()
    model.load_state_dict(safetensors.torch.load(run.model()))
    with example.torch.no_grad():
        forecasts = np.exp(model(windows)[:, -1].double().numpy() + described["base"])

    naive = {name: deviance(table[name].to_numpy()[begin:]) for name in ("range_1d", "range_5d", "range_22d")}
    assert described["held_out"]["deviance_of_last_week"] == pytest.approx(naive["range_5d"], abs=1e-4)
    assert described["held_out"]["deviance"] == pytest.approx(deviance(forecasts), abs=1e-4)
    print(f"deviance on held-out days: {deviance(forecasts):.4f}, naive {naive}")
    assert deviance(forecasts) < 0.87 * min(naive.values())
