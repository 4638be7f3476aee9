"""A trainer for tests of what befalls its task: real checkpoints and a real model, but no step before it may be done.

    gated_trainer.py FOLDER

The file ``FOLDER/<run>`` says up to which step the run may go. Each process notes itself in ``FOLDER/<run>.started``.
SIGTERM and a newer epoch end the waiting, as they end a step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from holdfast.engine.checkpoint.adapters.xgboost import MODEL_BLOB, BoosterAdapter, import_xgboost
from holdfast.engine.checkpoint.guard import Permission
from holdfast.engine.training import Training
from holdfast.errors import HoldfastError

#: Rows and columns are sampled: each round draws random numbers, and a resume has something to get wrong.
PARAMETERS = {
    "eta": 0.3,
    "max_depth": 3,
    "subsample": 0.7,
    "colsample_bynode": 0.7,
    "tree_method": "hist",
    "nthread": 1,
    "base_score": 0.5,
}


class Gate:
    """Holds a run back until its test lets it go on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._asked_to_leave = threading.Event()

    def listen(self) -> None:
        """Hear SIGTERM beside the checkpointer, whose handler is in place by now."""
        before: Any = signal.getsignal(signal.SIGTERM)

        def leave(number: int, frame: Any) -> None:
            before(number, frame)
            self._asked_to_leave.set()

        signal.signal(signal.SIGTERM, leave)

    def wait(self, step: int, training: Training) -> None:
        while step > self._allowed() and not self._asked_to_leave.is_set():
            if training.checkpointer.guard.permission() is Permission.FENCED:
                training.checkpointer.require_permission(f"step {step}")
            time.sleep(0.05)

    def _allowed(self) -> int:
        try:
            return int(self._file.read_text())
        except FileNotFoundError:
            return 0


def train(training: Training, folder: Path) -> None:
    run = training.environment.run
    with (folder / f"{run}.started").open("a") as started:
        started.write(f"e{training.environment.epoch} {training.environment.site} {os.getpid()}\n")
    table = training.dataset()
    columns = [table.column(name).to_numpy().astype("float32") for name in table.column_names]
    import numpy as np

    data = import_xgboost().DMatrix(np.column_stack(columns[:-1]), label=columns[-1], nthread=1)
    model = BoosterAdapter(PARAMETERS, data, seed=training.job.seed)
    resumed = training.checkpointer.resume(model)
    gate = Gate(folder / run)
    with training.checkpointer as checkpointer:
        gate.listen()
        for step in range(resumed.step + 1 if resumed else 1, training.steps + 1):
            gate.wait(step, training)
            model.step(step)
            checkpointer.step(step, model)
        finished = checkpointer.finish(model)
        training.publish_model({MODEL_BLOB: model.state().blobs[MODEL_BLOB]}, finished)


def main() -> int:
    try:
        train(Training.from_environment(), Path(sys.argv[1]))
    except HoldfastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
