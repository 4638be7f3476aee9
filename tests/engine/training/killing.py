"""Runs an example trainer in a process of its own and, if told to, kills it with SIGKILL in the middle of its training.

python killing.py SCRIPT STEP DURABLE_STEP ARGUMENTS...

It dies straight after STEP, once a checkpoint of DURABLE_STEP is durable; a newer one may be half written.
STEP 0: it is left alone.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from holdfast.engine.checkpoint import Checkpointer

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = REPOSITORY / "include" / "training"


def trained(script: str, *arguments: str, kill: tuple[int, int] = (0, 0), **environ: str) -> str:
    """Run an example to its end, or to its death where it is told; its output.

    It sees neither Airflow nor anything an orchestrator would tell it, and one thread's worth of processor.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "HOLDFAST"))}
    command = [sys.executable, __file__, str(EXAMPLES / script), *map(str, kill), *arguments]
    ended = subprocess.run(
        command,
        env={**clean, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == (-signal.SIGKILL if kill[0] else 0), ended.stdout + ended.stderr
    return ended.stdout


def main(script: str, kill_step: int, durable_step: int, arguments: list[str]) -> None:
    ordinary = Checkpointer.step

    def step(self: Checkpointer, step: int, *args: Any, **kwargs: Any) -> bool:
        taken = ordinary(self, step, *args, **kwargs)
        if step == kill_step:
            deadline = time.monotonic() + 120
            while (self.status()["checkpoint"] or {"step": 0})["step"] < durable_step:
                assert time.monotonic() < deadline, "the checkpoint did not become durable"
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGKILL)
        return taken

    Checkpointer.step = step  # type: ignore[method-assign]  # the one place where a step ends in every trainer
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))  # as `python SCRIPT` would
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
