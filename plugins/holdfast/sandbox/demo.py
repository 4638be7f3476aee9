"""``make demo``: three emulated clouds and a real Airflow lose a site in the middle of a training, and recover.

Nothing in it is made up for the occasion: the DAGs, the drill and the evidence are the ones of a deployment; only the
clouds are emulators, and the fault is their proxy's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast.engine.compute import JobState
from holdfast.engine.drill.evidence import load_or_create_key, verify_evidence
from holdfast.engine.drill.summary import summary_rows
from holdfast.engine.pipeline import publish_dataset, require_active
from holdfast.engine.recovery.jobs import job_status
from holdfast.engine.recovery.subjects import current_run
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError
from holdfast.sandbox import demo_audit, demo_vault
from holdfast.sandbox.airflow import AirflowStack, DagRun
from holdfast.sandbox.airflow_connection import USER, airflow_folder
from holdfast.sandbox.errors import PartFailed
from holdfast.sandbox.files import read_json
from holdfast.sandbox.scene import await_service, begin_authority, create_records, seed_data, train_first_models
from holdfast.sandbox.supervisor import Sandbox

SCENARIO = "site-outage"
EVIDENCE = tuple(demo_audit.EVIDENCE)
_ROOT = Path(__file__).resolve().parents[3]
#: The training must have this many steps behind it before the cloud is cut off.
_STEPS_BEFORE = 30
_MARKS = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "[yellow]unknown[/]"}


class Teller:
    """Prints what happens, with the seconds since the beginning; plain where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/]")

    def say(self, line: str) -> None:
        self.console.print(f"[dim]{self.seconds:6.1f} s[/]  {line}", highlight=False)


class Demo:
    """One run of the story.

    Args:
        state: everything it starts lives in this folder; what an earlier run left there is stopped and removed.
        output: where the evidence is copied to.
    """

    def __init__(self, state: Path, output: Path, teller: Teller) -> None:
        self.sandbox = Sandbox(state, topology=_ROOT / "include" / "holdfast.yaml")
        self.output = output
        self.tell = teller
        self.airflow = AirflowStack(airflow_folder(state), {}, dags=_ROOT / "dags", plugins=_ROOT / "plugins")
        self._runtime: Runtime | None = None
        self._vault: demo_vault.VaultFigures | None = None
        self._audit: demo_audit.AuditFigures | None = None

    def run(self) -> bool:
        """The story; whether every verdict is a pass and the evidence verifies."""
        self.clean()
        self._start()
        group = next(iter(self.runtime.topology.groups))
        training = self._protect_and_train(group)
        journal_file = self._drill(group)
        self._training_ends(training)
        self._export_audit(journal_file)
        return self._conclude(journal_file)

    @property
    def runtime(self) -> Runtime:
        """The engine, from outside the sites, as Airflow's workers are."""
        if self._runtime is None:
            self._runtime = Runtime.from_environment(environ={**os.environ, **self.sandbox.environment()})
        return self._runtime

    def clean(self) -> None:
        """Stop what an earlier run left, and begin with empty clouds."""
        self.stop()
        self.sandbox.down(wipe=True)
        self._runtime = None  # the next sandbox has other ports
        for left in ("evidence", "jobs"):
            shutil.rmtree(self.sandbox.paths.state / left, ignore_errors=True)
        self.airflow.forget_runs()

    def stop(self) -> None:
        """Stop Airflow, the training jobs and the clouds."""
        self.airflow.down()
        self._stop_jobs()
        self.sandbox.down()

    def _stop_jobs(self) -> None:
        if not self.sandbox.is_up:
            return
        for site in self.runtime.topology.sites:
            backend = self.runtime.backend(site)
            for folder in (self.sandbox.paths.state / "jobs" / site).glob("*.e*"):
                handle = backend.find(folder.name)
                if handle is not None and backend.status(handle).state is JobState.RUNNING:
                    backend.stop(handle, grace_seconds=1.0)

    # -- the chapters -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.tell.chapter("Three clouds and an Airflow")
        with ThreadPoolExecutor(1, "airflow") as pool:
            preparing = pool.submit(self.airflow.prepare)
            self.sandbox.up(timeout=180, agents=True)
            for name, site in self.runtime.topology.sites.items():
                self.tell.say(f"{name}: an emulated {site.cloud} with the bucket {site.bucket}")
            preparing.result()
        self.airflow.environment = self.sandbox.environment()
        self.airflow.start()
        group = next(iter(self.runtime.topology.groups))
        state = begin_authority(self.runtime, group)
        self.tell.say(f"{group}: {state.active_site} is active in epoch {state.epoch}")
        self.tell.say(f"{seed_data(self.runtime, group)} objects of real market data at {state.active_site}")
        for dataset in self.runtime.topology.group(group).datasets:
            publish_dataset(self.runtime, group, dataset)
        for job, digest in train_first_models(self.runtime, group).items():
            self.tell.say(f"a first model of {job} is published: {digest[:19]}")
        create_records(self.runtime, group)
        await_service(self.runtime, group)
        self.tell.say("the model's service answers through DNS")
        # While Airflow starts.
        self._vault = demo_vault.back_up_and_drill(self.runtime, group, self.output, say=self.tell.say)
        self.airflow.wait_healthy(timeout_seconds=300)
        self.tell.say(f"Airflow is up at {self.airflow.address}")

    def _protect_and_train(self, group: str) -> DagRun:
        self.tell.chapter("Data is replicated, a model trains")
        self.airflow.wait_for_dag("train_model")
        self.airflow.pause("train_model", False)
        self.airflow.wait_for_dag("replicate_datasets")
        self.airflow.pause("replicate_datasets", False)
        # Its schedule starts the first run at once.
        replication = self._first_run("replicate_datasets", "scheduled")
        self._follow(replication, timeout_seconds=300)
        # From here on the drill keeps the replicas fresh; a run every minute would only take its two cores.
        self.airflow.pause("replicate_datasets")
        for row in self.airflow.result(replication, f"{group}.protect") or []:
            self.tell.say(f"{row['subject']} → {row['target']}: {row['detail']}")
        training = self._first_run("train_model", "asset_triggered")
        self.tell.say("the dataset's update started train_model")
        self._until_steps(group, _STEPS_BEFORE)
        return training

    def _drill(self, group: str) -> Path:
        self.tell.chapter(f"A drill over REST: {SCENARIO}")
        self.airflow.wait_for_dag("failover_drill")
        drill = self.airflow.trigger("failover_drill", {"group": group, "scenario": SCENARIO})
        self._follow(drill, timeout_seconds=600, about=_about_the_drill)
        result = self.airflow.result(drill, "conclude")
        if result is None:
            log = self.airflow.log(drill, "prepare") or self.airflow.log(drill, "conclude")
            raise PartFailed(
                "the drill left no evidence",
                where=drill.run_id,
                expected="a result of its last task",
                found=log[-1500:],
                fix=f"Read the logs under {self.airflow.state / 'logs'}",
            )
        return Path(result["evidence"]) / "journal.json"

    def _training_ends(self, training: DagRun) -> None:
        state = self.airflow.wait(training, timeout_seconds=240)
        found = self.airflow.result(training, "train") or {}
        self.tell.say(
            f"train_model ended with {state}: its task found the run again at {found.get('site')} in epoch "
            f"{found.get('epoch')}"
        )

    def _export_audit(self, journal_file: Path) -> None:
        self.tell.chapter("An export for the auditor, of the clouds, Airflow and Holdfast")
        drills = {"failover-drill": journal_file.parent, "restore-drill": self.output / demo_vault.FOLDER}
        self._audit = demo_audit.export_own_run(self.sandbox, self.output, drills, say=self.tell.say)

    def _conclude(self, journal_file: Path) -> bool:
        self.tell.chapter("What was measured")
        self.output.mkdir(parents=True, exist_ok=True)
        for name in EVIDENCE:
            shutil.copyfile(journal_file.parent / name, self.output / name)
        journal: dict[str, Any] = read_json(self.output / "journal.json") or {}
        # It raises when a byte was changed. The sandbox's own key is the one that is trusted here.
        key = load_or_create_key(self.runtime.environ).public_key()
        verified = verify_evidence(self.output, public_key=key)
        assert self._vault is not None
        assert self._audit is not None
        self.tell.console.print(_table(journal, self._vault, self._audit))
        passed = journal["status"] == "completed" and not journal["deviated"] and journal["verdict"]["passed"] is True
        passed = passed and self._vault.passed and self._audit.passed
        self.tell.console.print(
            f"The drill {journal['status']}; verdicts {'all pass' if passed else 'DO NOT ALL PASS'}; the evidence of "
            f"both drills verifies, {verified.signer}.",
            highlight=False,
        )
        for folder in (self.output, self.output / demo_vault.FOLDER):
            for name in EVIDENCE:
                self.tell.console.print(f"  {folder / name}", highlight=False)
        return bool(passed)

    # -- watching -----------------------------------------------------------------------------------------------

    def _follow(self, run: DagRun, *, timeout_seconds: float, about: Any = None) -> None:
        for task in self.airflow.follow(run, timeout_seconds=timeout_seconds):
            if task.state in ("success", "failed", "up_for_retry", "upstream_failed"):
                result = self.airflow.result(run, task.task_id) if about else None
                detail = about(task.task_id, result) if about and result else ""
                took = f" in {task.duration_seconds:.1f} s" if task.duration_seconds else ""
                colour = "green" if task.state == "success" else "red"
                self.tell.say(
                    f"{run.dag_id}.{task.task_id} [{colour}]{task.state}[/]{took}{': ' + detail if detail else ''}"
                )

    def _first_run(self, dag_id: str, run_type: str, *, timeout_seconds: float = 180.0) -> DagRun:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for run in self.airflow.request("GET", f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"]:
                if run["run_type"] == run_type:
                    return DagRun(dag_id, run["dag_run_id"])
            time.sleep(0.25)
        raise PartFailed(
            f"no {run_type} run began",
            where=dag_id,
            expected=f"one within {timeout_seconds:g} s",
            found="none",
            fix=f"Read {self.airflow.state / 'logs' / 'scheduler.log'}",
        )

    def _until_steps(self, group: str, steps: int, *, timeout_seconds: float = 180.0) -> None:
        state = require_active(self.runtime, group)
        job = self.runtime.topology.group(group).training[0]
        deadline = time.monotonic() + timeout_seconds
        seen = None
        while time.monotonic() < deadline:
            run = current_run(self.runtime.store(state.active_site), group, job, epoch=state.epoch)
            status = job_status(self.runtime, state.active_site, run, state.epoch) if run else None
            seen = status
            if status is not None and status.state is JobState.RUNNING and (status.step or 0) >= steps:
                self.tell.say(f"{run} is at step {status.step} of {status.total_steps} at {state.active_site}")
                return
            time.sleep(0.25)
        raise PartFailed(
            "the training does not get on",
            where=job,
            expected=f"step {steps} within {timeout_seconds:g} s",
            found=str(seen),
            fix=f"Read the job's log under {self.sandbox.paths.state / 'jobs'}",
        )


def _about_the_drill(task: str, result: dict[str, Any]) -> str:
    if task == "inject":
        return f"{result['site']} is cut off ({result['mode']})"
    if task == "detect":
        return f"the verdict is {result['verdict']}"
    if task == "fail_over":
        return f"epoch {result['epoch']} is committed, traffic has moved, the service answers"
    if task == "resume_training":
        return "; ".join(f"{job['run']} goes on from step {job['step']}" for job in result["jobs"] if job.get("run"))
    if task == "examine" and result.get("model"):
        return f"the model is {'identical to' if result['model']['identical'] else 'NOT'} an uninterrupted run's"
    return ""


def _table(journal: dict[str, Any], vault: demo_vault.VaultFigures, audit: demo_audit.AuditFigures) -> Table:
    table = Table("claim", "objective", "measured", "verdict", box=None)
    for claim, objective, measured, verdict in summary_rows(journal):
        table.add_row(claim, objective, measured, _MARKS[journal["verdict"][verdict]] if verdict else "")
    table.add_section()
    for rows in (demo_vault.vault_rows(vault), demo_audit.audit_rows(audit)):
        for claim, objective, measured, holds in rows:
            table.add_row(claim, objective, measured, _MARKS[holds])
    return table


@contextmanager
def _ending_cleanly(demo: Demo, keep: bool) -> Iterator[None]:
    """Stop everything however the story ends, Ctrl-C and SIGTERM included; with ``keep`` only when it failed early."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    kept = False
    try:
        yield
        kept = keep
    finally:
        if not kept:
            # A second Ctrl-C must not leave half of it running.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            demo.tell.say("stopping everything")
            demo.stop()


def main(arguments: list[str] | None = None) -> int:
    """``python -m holdfast.sandbox.demo``: exit code 0 only when every verdict is a pass and the evidence verifies."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.sandbox.demo", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="where the evidence is copied to")
    parser.add_argument("--state", type=Path, default=None, help="where it runs; default: `state` in the output folder")
    parser.add_argument("--keep", action="store_true", help="leave Airflow and the clouds up")
    parser.add_argument("--down", action="store_true", help="stop what --keep left up")
    options = parser.parse_args(arguments)
    teller = Teller(Console(soft_wrap=True))
    state = (options.state or options.output / "state").resolve()
    demo = Demo(state, options.output.resolve(), teller)
    if options.down:
        demo.stop()
        return 0
    try:
        with _ending_cleanly(demo, options.keep):
            passed = demo.run()
            teller.say(f"the whole story took {teller.seconds:.0f} s")
            if options.keep:
                teller.console.print(
                    f"\nAirflow is still up at {demo.airflow.address} — user {USER}, password {demo.airflow.password}\n"
                    f"Stop it with: {sys.executable} -m holdfast.sandbox.demo --output {options.output} --down",
                    highlight=False,
                )
    except HoldfastError as error:
        sys.stderr.write(f"holdfast: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("holdfast: interrupted; everything is stopped\n")
        return 130
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
