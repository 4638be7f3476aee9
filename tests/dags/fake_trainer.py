"""A training job for tests of the operator: it runs until its test tells it how to end, then publishes a model.

The test and the job share the folder that TEST_FOLDER names in the command's second word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(folder: Path, model: str) -> None:
    with (folder / "started").open("a") as started:
        started.write(f"{os.environ['HOLDFAST_RUN']} e{os.environ['HOLDFAST_EPOCH']} {os.getpid()}\n")
    heartbeat = Path(os.environ["HOLDFAST_HEARTBEAT"])
    deadline = time.monotonic() + 120
    while not (folder / "finish").exists():
        if time.monotonic() > deadline:
            sys.exit(1)
        temporary = heartbeat.with_suffix(".new")
        temporary.write_text(json.dumps({"state": "running", "step": 1, "total_steps": 2}))
        temporary.replace(heartbeat)
        time.sleep(0.05)
    code = int((folder / "finish").read_text() or 0)
    if code == 0:
        publish(model)
    sys.exit(code)


def publish(model: str) -> None:
    from holdfast.clock import SystemClock
    from holdfast.engine.runtime import Runtime
    from holdfast.engine.snapshot import put_snapshot

    runtime, site = Runtime.from_environment(), os.environ["HOLDFAST_SITE"]
    put_snapshot(
        runtime.store(site),
        dataset=model,
        files={"model.ubj": b"model"},
        epoch=int(os.environ["HOLDFAST_EPOCH"]),
        site=site,
        clock=SystemClock(),
        labels={"run": os.environ["HOLDFAST_RUN"], "step": "2", "model_digest": "blake3:00"},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
