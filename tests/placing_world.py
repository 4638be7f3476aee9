"""A site whose jobs are processes of this machine, with machines there may be none of: files say which.

Run as a program it is one starter of a run: ``python placing_world.py FOLDER`` prints what `place` answers.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.clock import SystemClock
from holdfast.engine.compute import JobHandle, JobSpec, NoCapacity, ProcessBackend
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.objectstore import local_store
from holdfast.engine.recovery.placing import Answer, Placed, Wanted, place
from holdfast.engine.runtime import Runtime

SITE, GROUP, JOB, RUN = "site-a", "desk", "job-x", "desk-job-x"
WANTED = Wanted(GROUP, JOB, RUN, 1, SITE, None)
#: Says that it runs, then leaves with the code that it finds, or waits to be killed.
TRAINER = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / f"ran-{os.getpid()}").touch()
while not (folder / "leave").exists():
    time.sleep(0.01)
sys.exit(int((folder / "leave").read_text()))
"""


class ScarceBackend(ProcessBackend):
    """Processes, started only where there is a machine: a file ``full-<machine>`` says that there is none."""

    def __init__(self, folder: Path) -> None:
        environ = {"PATH": os.environ["PATH"]}
        super().__init__(
            SITE,
            folder / "state",
            environ=environ,
            cwd=folder,
            clock=SystemClock(),
            store=partial(local_store, "bucket", folder / "bucket"),
        )
        self._work = folder

    def _start(self, spec: JobSpec, folder: Path) -> JobHandle:
        with (self._work / "asked").open("a") as asked:
            asked.write(f"{spec.machine}\n")
        if (self._work / f"full-{spec.machine}").exists():
            raise NoCapacity("there is no such machine", where=SITE, found=f"no {spec.machine} left")
        if (self._work / "die").exists():
            os._exit(9)  # the starter, not the job: nothing was submitted
        return super()._start(spec, folder)


class ScarceRuntime(Runtime):
    """A runtime whose one site has a `ScarceBackend`."""

    def __init__(self, folder: Path) -> None:
        environ = {"AIRFLOW_CONN_C": json.dumps({"conn_type": "generic"})}
        super().__init__(load_topology(folder / "topology.json", {}), EnvironmentConnections(environ), environ=environ)
        self._folder = folder

    def backend(self, site: str) -> ScarceBackend:  # type: ignore[override]
        assert site == SITE
        return ScarceBackend(self._folder)


def document(
    at: str, site: dict[str, Any], command: list[str], placements: list[dict[str, Any]], recovery: str
) -> dict[str, Any]:
    """A topology whose group is active at a site and trains one job there."""
    objectives = {"rpo_seconds": 1, "rto_seconds": 1}
    sites = {"active": at, "standby": ["site-b"], "witness": ["site-c"]}
    job = {"dataset": "prices", "model": "model", "steps": 9, "checkpoint_every_steps": 1, "command": command}
    group = {"owner": "o", "tier": 1, "sites": sites, "objectives": objectives, "datasets": ["prices"]}
    return {
        "version": 1,
        "sites": dict.fromkeys((at, "site-b", "site-c"), site),
        "groups": {GROUP: {**group, "training": [JOB]}},
        "datasets": {"prices": {"path": "prices"}},
        "training": {JOB: {**job, "placements": placements, "recovery": recovery}},
    }


def make(folder: Path) -> None:
    """The topology of that site, its bucket a folder, and a trainer."""
    (folder / "bucket").mkdir()
    (folder / "train.py").write_text(TRAINER)
    names = {"cloud": "local", "region": "here", "jurisdiction": "EU", "connection": "c"}
    site = {**names, "bucket": str(folder / "bucket")}
    command = ["{python}", "-I", "-S", "train.py", str(folder)]
    made = document(SITE, site, command, [{"machine": "small"}, {"machine": "big"}], "next-placement")
    (folder / "topology.json").write_text(json.dumps(made))


def start(folder: Path) -> Answer:
    return place(ScarceRuntime(folder), WANTED)


if __name__ == "__main__":
    answer = start(Path(sys.argv[1]))
    assert isinstance(answer, Placed), answer
    print(json.dumps([answer.attempt, answer.placement.machine, answer.handle.reference["pid"]]))
