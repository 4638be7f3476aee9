"""Train the volatility model: one boosting round per step, killable at any, the same bytes however often it was.

A training backend starts it with the environment contract of a job (docs/explanation/training.md). It reads its
dataset snapshot from its own site, checkpoints there, replicates each checkpoint to the standby sites, and at its
end publishes the model as a snapshot. It exits 0 when it is done, 76 when its epoch is over, 75 when asked to leave.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from holdfast.engine.checkpoint.adapters.xgboost import MODEL_BLOB, BoosterAdapter, import_xgboost
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


def train(training: Training) -> None:
    """Train from wherever the run is to its last step, and publish the model."""
    table = training.dataset()
    data = matrix(table)
    model = BoosterAdapter(PARAMETERS, data, seed=training.job.seed)
    resumed = training.checkpointer.resume(model)
    begin = resumed.step if resumed else 0
    how = f"{resumed.resume}, from epoch {resumed.manifest.epoch}" if resumed else "from the start"
    print(
        f"{training.environment.run} epoch {training.environment.epoch} at {training.environment.site}: "
        f"step {begin} of {training.steps}, {how}",
        flush=True,
    )
    with training.checkpointer as checkpointer:
        for step in range(begin + 1, training.steps + 1):
            due = time.monotonic() + training.step_seconds
            model.step(step)
            checkpointer.step(step, model, loss=_loss(model, data) if step % 10 == 0 else None)
            if (wait_seconds := due - time.monotonic()) > 0:
                time.sleep(wait_seconds)
        finished = checkpointer.finish(model)
        files = {MODEL_BLOB: model.state().blobs[MODEL_BLOB], "features.json": _features_json(table)}
        record = training.publish_model(files, finished)
    print(f"published {training.job.model} {record.snapshot_id}: {finished.manifest.model_digest}", flush=True)


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


def main() -> int:
    try:
        train(Training.from_environment())
    except HoldfastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
