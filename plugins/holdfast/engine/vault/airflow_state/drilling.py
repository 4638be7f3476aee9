"""The parts of a drill of Airflow: what it reports, how steps follow each other, and those that any restored database
goes through.

A step that could not be judged is unknown, and a drill passes only when every step passed.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from holdfast.clock import Clock
from holdfast.engine.vault.airflow_state.canary_run import ScratchAirflow
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.airflow_state.fernet import cannot_open
from holdfast.engine.vault.airflow_state.inventory import encrypted_rows
from holdfast.engine.vault.airflow_state.keys import AirflowKeys
from holdfast.engine.vault.airflow_state.programs import PostgresPrograms, find_programs
from holdfast.engine.vault.airflow_state.reconcile import reconcile
from holdfast.engine.vault.airflow_state.sessions import Session, open_session
from holdfast.engine.vault.airflow_state.urls import parse_url
from holdfast.errors import HoldfastError

Outcome = Literal["passed", "failed", "unknown"]
#: What a step found, as a sentence and as facts.
Found = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class DrillOptions:
    """How to drill.

    Args:
        postgres_programs: the folder of PostgreSQL's programs, the server's among them.
        restore_timeout_seconds, run_timeout_seconds: for the restore, and for a scheduler to run a DAG.
        folder: where the drill works; a temporary one by default.
        progress: told the name of each step as it begins.
        stepped: told each step when it is over, also one that was not reached.
    """

    postgres_programs: Path | None = None
    restore_timeout_seconds: float = 4 * 3600.0
    run_timeout_seconds: float = 300.0
    folder: Path | None = None
    progress: Callable[[str], None] = lambda _step: None
    stepped: Callable[[DrillStep], None] = lambda _step: None


@dataclass(frozen=True)
class DrillStep:
    """One step.

    Args:
        seconds: what it took, 0 where it was not reached.
        reason: why it did not pass, or what it found.
    """

    name: str
    outcome: Outcome
    seconds: float
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AirflowDrillReport:
    """What a drill found; the times that count are measured by whoever runs it (`holdfast.engine.drill`).

    Args:
        backup_id: what was restored.
        taken_at: the point in time that what was restored is of.
        database, airflow: what it is, as far as it was found out.
    """

    backup_id: str
    taken_at: datetime | None
    database: str | None
    airflow: str | None
    steps: tuple[DrillStep, ...]

    @property
    def passed(self) -> bool:
        """Every step did; what is not known is no pass."""
        return all(step.outcome == "passed" for step in self.steps)


class Unknown(Exception):
    """A step cannot be judged."""


@dataclass
class Drill(ABC):
    """The steps of a drill, and where they have got to.

    Args:
        opened: Airflow's keys, from an escrow.
        url: of the restored database, as SQLAlchemy writes it; once there is one.
    """

    command: AirflowCommand
    options: DrillOptions
    clock: Clock
    opened: AirflowKeys = field(default_factory=AirflowKeys)
    url: str = field(default="", repr=False)

    #: In order; a step ``x`` is the method ``step_x``.
    steps: ClassVar[tuple[str, ...]]
    #: The steps that must have passed before one can be taken.
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def run(self) -> AirflowDrillReport:
        """All steps; what was restored is gone in the end."""
        taken: list[DrillStep] = []
        with ExitStack() as self.stack:
            self.folder = Path(tempfile.mkdtemp(prefix="holdfast-drill-", dir=self.options.folder))
            self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            for name in self.steps:
                taken.append(self._step(name, taken))
                self.options.stepped(taken[-1])
        return self.report(tuple(taken))

    @abstractmethod
    def report(self, steps: tuple[DrillStep, ...]) -> AirflowDrillReport:
        """What it comes to."""

    def _step(self, name: str, before: Sequence[DrillStep]) -> DrillStep:
        passed = {step.name for step in before if step.outcome == "passed"}
        lacking = [needed for needed in self.needs.get(name, ()) if needed not in passed]
        if lacking:
            return DrillStep(name, "unknown", 0.0, f"not reached: {', '.join(lacking)} did not pass")
        self.options.progress(name)
        begun = self.clock.monotonic()
        outcome: Outcome = "passed"
        facts: dict[str, Any] = {}
        try:
            reason, facts = getattr(self, f"step_{name}")()
        except Unknown as unknown:
            outcome, reason = "unknown", str(unknown)
        except HoldfastError as error:
            outcome, reason = "failed", str(error)
        except OSError as error:
            outcome, reason = "failed", f"{type(error).__name__}: {error.strerror}"
        return DrillStep(name, outcome, self.clock.monotonic() - begun, reason, facts)

    @property
    def programs(self) -> PostgresPrograms:
        return find_programs(self.options.postgres_programs)

    @property
    def lifetime_seconds(self) -> float:
        """After so long whatever the drill started is killed."""
        return self.options.restore_timeout_seconds + self.options.run_timeout_seconds + 600

    def session(self) -> Session:
        """To the restored database."""
        return open_session(parse_url(self.url), self.programs, timeout_seconds=self.lifetime_seconds)

    # -- what any restored database goes through ---------------------------------------------------------------------

    def step_migrations(self) -> Found:
        home = self.folder / "airflow"
        home.mkdir()
        self.airflow = ScratchAirflow(self.command, home, self.url, self.opened, self.clock)
        self.airflow.check_migrations()
        installed = self.command.installed.airflow
        return f"Airflow {installed} finds every migration applied", {"installed": installed}

    def step_canary(self) -> Found:
        with self.session() as session:
            rows = encrypted_rows(session)
        if not rows:
            raise Unknown("the database has no encrypted connection or variable; add one, and back it up")
        if self.opened.fernet_key is None:
            raise Unknown("there is no Fernet key to try")
        closed = cannot_open(rows, self.opened.fernet_key)
        if closed:
            raise HoldfastError(
                "the Fernet key in escrow does not open what was restored",
                expected="a key for each connection and variable",
                found=f"none for {', '.join(closed[:10])}",
            )
        canary = f"{rows[0]['kind']} {rows[0]['name']}"
        return f"{canary} was decrypted, and whatever else is encrypted", {"canary": canary, "decrypted": len(rows)}

    def step_reconcile(self) -> Found:
        with self.session() as session:
            done = reconcile(session, silence=True)
        facts = {"paused": done.paused, "rescheduled": done.rescheduled, "silenced": done.silenced}
        return f"{done.paused} DAGs paused, {done.rescheduled} task instances to be scheduled again", facts

    def step_run(self) -> Found:
        timeout = self.options.run_timeout_seconds
        with self.session() as session:
            run_id = self.airflow.run_canary(session, timeout_seconds=timeout)
        return "a scheduler ran a DAG on the restored database", {"run_id": run_id}
