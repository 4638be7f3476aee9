"""Train the volatility model: one boosting round per step, killable at any, the same bytes however often it was.

A training backend starts it with the environment contract of a job (docs/explanation/training.md). It reads its
dataset snapshot from its own site, checkpoints there, replicates each checkpoint to the standby sites, and at its
end publishes the model as a snapshot. It exits 0 when it is done, 76 when its epoch is over, 75 when asked to leave.
On its own it keeps everything in one folder, and started again it goes on there:

    python include/training/volatility.py --folder /tmp/trees
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint.adapters.xgboost import MODEL_BLOB, BoosterAdapter, import_xgboost
from holdfast.engine.local_training import LocalTraining
from holdfast.engine.training import Training
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa

TARGET = "next_day_volatility"
#: Volatility is positive and its errors grow with it: the gamma deviance. Rows and columns are sampled, so each
#: round draws random numbers, and a resume has something to get wrong. One thread: sums in one order.
PARAMETERS = {
    "objective": "reg:gamma",
    "eval_metric": "gamma-deviance",
    "eta": 0.03,
    "max_depth": 3,
    "min_child_weight": 5,
    "subsample": 0.7,
    "colsample_bynode": 0.7,
    "tree_method": "hist",
    "nthread": 1,
    "base_score": 12.0,
}


def matrix(table: pa.Table) -> Any:
    """The table as XGBoost takes it, columns in the dataset's order, missing values as they are."""
    import numpy as np

    names = features(table)
    columns = [table.column(name).to_numpy(zero_copy_only=False).astype("float32") for name in names]
    target = table.column(TARGET).to_numpy(zero_copy_only=False).astype("float32")
    return import_xgboost().DMatrix(np.column_stack(columns), label=target, feature_names=names, nthread=1)


def features(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in ("date", TARGET)]


def train(training: Training | LocalTraining) -> None:
    """Train from wherever the run is to its last step, and publish the model."""
    table = training.dataset()
    data = matrix(table)
    model = BoosterAdapter(PARAMETERS, data, seed=training.seed)
    resumed = training.checkpointer.resume(model)
    begin = resumed.step if resumed else 0
    how = f"{resumed.resume}, from epoch {resumed.manifest.epoch}" if resumed else "from the start"
    checkpointer = training.checkpointer
    where = f"{checkpointer.run} epoch {checkpointer.epoch} at {checkpointer.site}"
    print(f"{where}: step {begin} of {training.steps}, {how}", flush=True)
    with checkpointer:
        for step in range(begin + 1, training.steps + 1):
            due = time.monotonic() + training.step_seconds
            model.step(step)
            checkpointer.step(step, model, loss=_loss(model, data) if step % 10 == 0 else None)
            if (wait_seconds := due - time.monotonic()) > 0:
                time.sleep(wait_seconds)
        finished = checkpointer.finish(model)
        files = {MODEL_BLOB: model.state().blobs[MODEL_BLOB], "features.json": _features_json(table)}
        training.publish_model(files, finished)
    print(f"published {finished.manifest.model_digest}", flush=True)


def _loss(model: BoosterAdapter, data: Any) -> float:
    """The training loss, for the heartbeat."""
    return float(str(model.booster.eval(data)).rpartition(":")[2])


def _features_json(table: pa.Table) -> bytes:
    described = {
        "format": "holdfast.model/1",
        "library": "xgboost",
        "features": features(table),
        "target": TARGET,
        "unit": "percent per year",
    }
    return json.dumps(described, sort_keys=True, indent=1).encode()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    alone = parser.add_argument_group("on its own")
    alone.add_argument("--folder", type=Path, help="keeps the run; without it an orchestrator must have started this")
    alone.add_argument("--data", type=Path, help="folder of Parquet files (made by prepare_data.py)")
    alone.add_argument("--steps", type=int, default=300, help="(%(default)s)")
    alone.add_argument("--every", type=int, default=10, help="steps from one checkpoint to the next (%(default)s)")
    alone.add_argument("--seed", type=int, default=20081015, help="(%(default)s)")
    return parser.parse_args()


def open_training(options: argparse.Namespace) -> Training | LocalTraining:
    if options.folder is None:
        return Training.from_environment()
    data = options.data
    if data is None:
        from prepare_data import write

        data = options.folder / "data"
        write(data)
    return LocalTraining.open(
        options.folder,
        data=data,
        columns=[TARGET],
        steps=options.steps,
        every_steps=options.every,
        seed=options.seed,
    )


def main() -> int:
    options = arguments()
    try:
        train(open_training(options))
    except HoldfastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
