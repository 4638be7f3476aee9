"""The environment contract between whoever starts a training process and the process (see compute's JobSpec)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.checkpoint.errors import EnvironmentIncomplete

#: How ``HOLDFAST_HEARTBEAT`` says that it names an object.
_OBJECT = "object:"


@dataclass(frozen=True, slots=True)
class TrainingEnvironment:
    """What a training process was told.

    Args:
        run, epoch, site, group, job: which run of which job this is, in which epoch and where.
        dataset_snapshot: the snapshot id to train on; None: the newest.
        resume_from: the digest of the checkpoint that whoever started the job elected; None: the start, or not said.
        heartbeat: the file to keep current.
        heartbeat_key: the object in the site's bucket to keep current instead, for a job on another machine.
        scratch: a local folder that replaces the site's bucket for everything written: a reference run, which
            touches neither buckets nor the authority. Data is still read from the site.
        self_test: ``HOLDFAST_SELF_TEST`` is 1: find out whether the save mode fits the training loop; slow.
        preemption: ``HOLDFAST_PREEMPTION``: a cloud whose notices to watch for, or ``site``: the one the site is in.
        steps, step_seconds: override the job's own, e.g. for a short first model or an unpaced reference.
    """

    run: str
    epoch: int
    site: str
    group: str
    job: str
    dataset_snapshot: str | None = None
    resume_from: str | None = None
    heartbeat: Path | None = None
    heartbeat_key: str | None = None
    scratch: Path | None = None
    steps: int | None = None
    step_seconds: float | None = None
    self_test: bool = False
    preemption: str | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> TrainingEnvironment:
        """Raises EnvironmentIncomplete, naming every variable that is missing or wrong."""
        wrong: list[str] = []

        def text(name: str) -> str:
            value = environ.get(name, "")
            if not value:
                wrong.append(f"{name} is not set")
            return value

        def number(name: str, default: str | None = None) -> float | None:
            value = environ.get(name) or default
            if value is None:
                return None
            try:
                return float(value)
            except ValueError:
                wrong.append(f"{name} is no number: {value!r}")
                return None

        epoch, steps = number("HOLDFAST_EPOCH", "0"), number("HOLDFAST_STEPS")
        if not epoch or epoch < 1 or epoch != int(epoch):
            wrong.append("HOLDFAST_EPOCH is no epoch: expected a whole number from 1")
        step_seconds = number("HOLDFAST_STEP_SECONDS")
        if (tested := environ.get("HOLDFAST_SELF_TEST") or "0") not in ("0", "1"):
            wrong.append(f"HOLDFAST_SELF_TEST is neither 0 nor 1: {tested!r}")
        _, is_object, object_key = environ.get("HOLDFAST_HEARTBEAT", "").partition(_OBJECT)
        key = object_key if is_object else None
        run, site, group, job = (text(f"HOLDFAST_{name}") for name in ("RUN", "SITE", "GROUP", "JOB"))
        if wrong:
            raise EnvironmentIncomplete(
                "the training job's environment is not complete",
                where="environment",
                expected="the variables of JobSpec",
                found="; ".join(wrong),
                fix="Start the job with `holdfast`, a TrainingBackend or the train_model DAG; without any of them, "
                "train in the folder of a LocalTraining (the examples' --folder)",
            )
        return cls(
            run=run,
            epoch=int(epoch or 0),
            site=site,
            group=group,
            job=job,
            dataset_snapshot=environ.get("HOLDFAST_DATASET_SNAPSHOT") or None,
            resume_from=environ.get("HOLDFAST_RESUME_FROM") or None,
            heartbeat=None if key else _path(environ, "HOLDFAST_HEARTBEAT"),
            heartbeat_key=key,
            scratch=_path(environ, "HOLDFAST_SCRATCH"),
            steps=None if steps is None else int(steps),
            step_seconds=step_seconds,
            self_test=tested == "1",
            preemption=environ.get("HOLDFAST_PREEMPTION") or None,
        )


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
