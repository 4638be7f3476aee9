"""Train a small transformer on the volatility series: killable at any step, the same weights however often it was.

A training backend starts it as it starts `volatility.py`: it reads, checkpoints, replicates and publishes the same way,
with the same exit codes. On its own it keeps everything in one folder, and started again it goes on there:

    python include/training/volatility_transformer.py --folder /tmp/transformer --bf16

It needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint import SaveMode
from holdfast.engine.checkpoint.adapters.torch import TorchAdapter
from holdfast.engine.checkpoint.loader import torch_loader
from holdfast.engine.checkpoint.order import DataOrder
from holdfast.engine.local_training import LocalTraining
from holdfast.engine.training import Training
from holdfast.errors import ConfigError, HoldfastError

try:
    import numpy as np
    import safetensors.torch
    import torch
    from torch import nn
except ModuleNotFoundError as missing:
    error = ConfigError(
        "this trainer's libraries are not installed",
        where=Path(__file__).name,
        expected="the extra `torch`",
        found=str(missing),
        fix="pip install 'holdfast[torch]'",
    )
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)

if TYPE_CHECKING:
    import pyarrow as pa

TARGET = "next_day_volatility"
#: Last week's mean volatility: the forecast to beat is that it goes on.
LAST_WEEK = "range_5d"
#: Trading days a forecast looks back on: a month.
DAYS = 22
#: The share of the series, its newest part, that no step trains on: the model is judged by it.
HELD_OUT = 0.2
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, GRADIENT_NORM = 64, 2e-3, 0.05, 1.0


class Forecaster(nn.Module):
    """Each day of a window, knowing those before it, forecasts the logarithm of the next day's volatility.

    Takes shape ``(windows, DAYS, features)``, gives ``(windows, DAYS)``, as a distance from ``base``.
    """

    def __init__(self, features: int, width: int = 32, heads: int = 4, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(DAYS, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, days: torch.Tensor) -> torch.Tensor:
        future = nn.Transformer.generate_square_subsequent_mask(DAYS, device=days.device)
        hidden = self.encoder(self.embed(days) + self.position, mask=future, is_causal=True)
        return self.head(hidden).squeeze(-1)


class Series:
    """The table as windows of days: a map-style dataset of those to train on, and the held-out ones after them."""

    def __init__(self, table: pa.Table) -> None:
        self.features = [name for name in table.column_names if name not in ("date", TARGET)]
        columns = [table.column(name).to_numpy(zero_copy_only=False) for name in self.features]
        # A logarithm that takes both signs: a crash is no longer a hundred times an ordinary day.
        raw = np.arcsinh(np.column_stack(columns))
        self.trained = round(len(raw) * (1 - HELD_OUT))
        known = raw[: self.trained]
        self.mean, self.scale = np.nanmean(known, axis=0), np.nanstd(known, axis=0) + 1e-6
        self.inputs = np.nan_to_num((raw - self.mean) / self.scale).astype(np.float32)  # missing: the mean
        self.targets = np.log(table.column(TARGET).to_numpy()).astype(np.float32)
        self.base = float(self.targets[: self.trained].mean())

    def __len__(self) -> int:
        return self.trained - DAYS + 1

    def __getitem__(self, first: int) -> tuple[Any, Any]:
        return self.inputs[first : first + DAYS], self.targets[first : first + DAYS]

    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One window per held-out day, which is its last, and that day's target."""
        ends = range(self.trained, len(self.inputs))
        windows = np.stack([self.inputs[end - DAYS + 1 : end + 1] for end in ends])
        return torch.from_numpy(windows), torch.from_numpy(self.targets[self.trained :])


def augment(sample: tuple[Any, Any], rng: np.random.Generator) -> tuple[Any, Any]:
    """Some noise, and a tenth of the days hidden; ``rng`` is this sample's own in this epoch."""
    inputs, targets = sample
    shown = rng.random((DAYS, 1)) >= 0.1
    return ((inputs + rng.normal(0, 0.1, inputs.shape)) * shown).astype(np.float32), targets


def deviance(forecasts: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean gamma deviance, of logarithms: volatility is positive and its errors grow with it."""
    distance = targets - forecasts
    return 2 * (distance.exp() - distance - 1).mean()


def rate(step: int, steps: int) -> float:
    """The share of the learning rate: it warms up over a tenth of the run and ends as a cosine."""
    warmup = max(1, steps // 10)
    return min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def train(training: Training | LocalTraining, options: argparse.Namespace) -> None:
    """Train from wherever the run is to its last step, and publish the model."""
    device, steps, checkpointer = torch.device(options.device), training.steps, training.checkpointer
    torch.manual_seed(training.seed)
    series = Series(training.dataset())
    model = Forecaster(len(series.features)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    # Order and augmentation follow from (seed, epoch, index). Dropout draws from torch's generator: that is saved.
    loader = torch_loader(series, DataOrder(len(series), training.seed), batch_size=BATCH_SIZE, augment=augment)
    adapter = TorchAdapter(model, optimizer, scheduler=scheduler, extra=loader.state, load_extra=loader.load_state)
    checkpointer.fingerprint["schedule_steps"] = str(steps)  # another length is another learning rate: not bitwise
    resumed = checkpointer.resume(adapter)
    begin = resumed.step if resumed else 0
    how = f"{resumed.resume}, from epoch {resumed.manifest.epoch}" if resumed else "from the start"
    where = f"{checkpointer.run} epoch {checkpointer.epoch} at {checkpointer.site}"
    print(f"{where}: step {begin} of {steps}, {how}", flush=True)
    batches = iter(loader)
    with checkpointer:
        for step in range(begin + 1, steps + 1):
            due = time.monotonic() + training.step_seconds
            inputs, targets = (part.to(device) for part in next(batches))
            with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                forecasts = model(inputs)
            loss = deviance(series.base + forecasts.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()  # with --mode overlap this waits for a copy under way
            scheduler.step()
            checkpointer.step(step, adapter, loss=loss.item() if step % 10 == 0 else None)
            if (wait_seconds := due - time.monotonic()) > 0:
                time.sleep(wait_seconds)
        finished = checkpointer.finish(adapter)
        report = held_out_report(model, series)
        training.publish_model(model_files(model, series, report), finished)
    print(f"published {finished.manifest.model_digest}: {report}", flush=True)


@torch.no_grad()
def held_out_report(model: Forecaster, series: Series) -> dict[str, float]:
    """The deviance on the days no step trained on: of the model, and of the forecast to beat."""
    model.eval()
    windows, targets = series.held_out()
    forecasts = model(windows.to(model.position.device))[:, -1].cpu()
    week = series.features.index(LAST_WEEK)
    last_week = np.sinh(windows[:, -1, week].double().numpy() * series.scale[week] + series.mean[week])
    return {
        "deviance": round(float(deviance(series.base + forecasts, targets)), 4),
        "deviance_of_last_week": round(float(deviance(torch.from_numpy(last_week).log(), targets)), 4),
    }


def model_files(model: Forecaster, series: Series, report: dict[str, float]) -> dict[str, bytes]:
    """The weights, and all that is needed to forecast with them."""
    described = {
        "format": "holdfast.model/1",
        "library": "torch",
        "features": series.features,
        "mean": series.mean.tolist(),
        "scale": series.scale.tolist(),
        "base": series.base,
        "days": DAYS,
        "target": TARGET,
        "unit": "percent per year",
        "held_out": report,
    }
    return {
        "model.safetensors": safetensors.torch.save(model.state_dict()),
        "features.json": json.dumps(described, sort_keys=True, indent=1).encode(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where autocast does")
    parser.add_argument(
        "--mode", choices=[*SaveMode], default=SaveMode.COPY, help="what a step waits for (%(default)s)"
    )
    parser.add_argument("--deterministic", action="store_true", help="refuse operations that are not, as GPUs have")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="fixed: sums in another order differ (%(default)s)")
    alone = parser.add_argument_group("on its own")
    alone.add_argument("--folder", type=Path, help="keeps the run; without it an orchestrator must have started this")
    alone.add_argument("--data", type=Path, help="folder of Parquet files (made by prepare_data.py)")
    alone.add_argument("--steps", type=int, default=300, help="(%(default)s)")
    alone.add_argument("--every", type=int, default=10, help="steps from one checkpoint to the next (%(default)s)")
    alone.add_argument("--seed", type=int, default=20081015, help="(%(default)s)")
    return parser.parse_args()


def open_training(options: argparse.Namespace) -> Training | LocalTraining:
    # Whatever else the numbers depend on: a run that goes on with another value is not called bitwise.
    numbers = {"autocast": "bfloat16" if options.bf16 else "off", "device": options.device}
    if options.folder is None:
        return Training.from_environment(mode=options.mode, fingerprint=numbers)
    data = options.data
    if data is None:
        from prepare_data import write

        data = options.folder / "data"
        write(data)
    return LocalTraining.open(
        options.folder,
        data=data,
        columns=[TARGET, LAST_WEEK],
        steps=options.steps,
        every_steps=options.every,
        seed=options.seed,
        mode=options.mode,
        fingerprint=numbers,
    )


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        train(open_training(options), options)
    except HoldfastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
