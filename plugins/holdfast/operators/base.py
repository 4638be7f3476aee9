"""What every Holdfast operator does: check its arguments early, get the engine from the hook, fail clearly."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from holdfast.errors import ConfigError, HoldfastError
from holdfast.hooks.runtime import HoldfastHook
from holdfast.hooks.topology import topology_outline

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime

#: Argument name → the part of a topology its value must be in.
_NAMED = {
    "vault": "vaults",
    "group": "groups",
    "dataset": "datasets",
    "job": "training",
    "site": "sites",
    "target": "sites",
}


class HoldfastOperator(BaseOperator):
    """Base of the operators: builds the engine, calls one engine function, returns a small summary.

    A subclass implements `act` and lists the arguments that name parts of the topology in ``template_fields``: a
    name that is written out is checked when the DAG is parsed, a template when the task runs.

    :param topology_path: the topology file; by default the one the configuration names.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#dbe7f3"

    def __init__(self, *, topology_path: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topology_path = topology_path

    @property
    def hook(self) -> HoldfastHook:
        """A hook of this task's own."""
        return HoldfastHook(self.topology_path)

    def execute(self, context: Context) -> Any:
        """Run `act`. A HoldfastError that no retry can mend fails the task at once."""
        with failing_clearly():
            return self.act(context, self.hook.runtime)

    def act(self, context: Context, runtime: Runtime) -> Any:
        """Call the engine and return a JSON-able summary."""
        raise NotImplementedError

    def check_names(self, **names: object) -> None:
        """Refuse a name the topology does not have, when the DAG is parsed.

        :raises ConfigError: an argument is empty, or names nothing.
        """
        for argument, value in names.items():
            if value is None or not isinstance(value, str) or "{{" in value:
                continue
            if not value:
                raise ConfigError("the argument is empty", where=f"task {self.task_id}: {argument}", expected="a name")
            path = Path(self.topology_path) if self.topology_path else None
            known: Mapping[str, object] = getattr(topology_outline(path), _NAMED[argument])
            if value not in known:
                raise ConfigError(
                    f"there is no such {argument}",
                    where=f"task {self.task_id}: {argument}",
                    expected=f"one of {', '.join(sorted(known)) or '(none defined)'}",
                    found=repr(value),
                )

    def check_positive(self, **amounts: float) -> None:
        """Refuse an amount that is not above 0, when the DAG is parsed."""
        for argument, value in amounts.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(
                    "the argument is out of range",
                    where=f"task {self.task_id}: {argument}",
                    expected="a number above 0",
                    found=repr(value),
                )


def request_id(context: Context) -> str:
    """The id of what a DAG run asks for, e.g. of its plan: the same on every retry, which goes on with the same."""
    from holdfast.engine.pipeline import identifier

    run = context["dag_run"]
    return identifier(run.run_after, f"{run.dag_id} {run.run_id}")


def names_of(event: Mapping[str, Any]) -> list[str]:
    """The names of who answered a question, first that under which a run is started; empty: nobody answered."""
    user = event.get("responded_by_user") or {}
    return [name for name in (user.get("name"), user.get("id")) if name]


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn an error that trying again cannot mend into a failure without retries; transient ones stay retryable."""
    try:
        yield
    except HoldfastError as error:
        if error.transient:
            raise
        raise AirflowFailException(str(error)) from error
    finally:
        _ship_decisions()


def _ship_decisions() -> None:
    """What residency policies decided in this task goes to the sites: a task's process ends without `atexit`."""
    if "holdfast.engine.policy.log" in sys.modules:
        from holdfast.engine.policy.log import ship_all

        ship_all()
