"""From Airflow's connections to the engine."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from holdfast.engine.config import load_topology
from holdfast.errors import ConfigError
from holdfast.hooks.topology import topology_file

if TYPE_CHECKING:
    from holdfast.engine.drill.interface import FaultInjector
    from holdfast.engine.runtime import Runtime


DEFAULT_INJECTOR = "holdfast.sandbox.faults.SandboxFaults"


class HoldfastHook(BaseHook):
    """Builds the engine's `Runtime` from Airflow's connections, whatever secrets backend holds them.

    There is no connection of its own: the topology names one per site.

    :param topology_path: the topology file; by default the one `holdfast.hooks.topology.topology_file` finds.
    """

    def __init__(self, topology_path: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topology_path = Path(topology_path) if topology_path else None
        self._runtime: Runtime | None = None

    def get_conn(self) -> Runtime:
        """The engine, made once per hook.

        :raises ConfigError: the topology is not valid. A missing connection is reported when its site is first used.
        """
        if self._runtime is None:
            from holdfast.engine.runtime import Runtime
            from holdfast.hooks.compute import compute_client
            from holdfast.hooks.connections import AirflowConnections
            from holdfast.hooks.site import SiteHook

            self._runtime = Runtime(
                load_topology(self.topology_path or topology_file()),
                AirflowConnections(),
                access=lambda name, site: SiteHook(name, site).store_access(),
                compute_client=compute_client,
            )
        return self._runtime

    @property
    def runtime(self) -> Runtime:
        """The same as `get_conn`."""
        return self.get_conn()

    def faults(self) -> FaultInjector:
        """The injector that ``[holdfast] fault_injector`` names.

        :raises ConfigError: there is no such class.
        """
        from airflow.sdk.configuration import conf

        path = conf.get("holdfast", "fault_injector", fallback="") or DEFAULT_INJECTOR
        module, _, name = path.rpartition(".")
        try:
            injector: FaultInjector = getattr(importlib.import_module(module), name)(os.environ)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                "the fault injector cannot be loaded",
                where="[holdfast] fault_injector",
                expected="the import path of a class",
                found=f"{path!r}: {error}",
            ) from None
        return injector

    def evidence_folder(self) -> Path:
        """Where drills write their evidence: ``[holdfast] evidence_folder``, else ``evidence`` in the state folder."""
        from airflow.sdk.configuration import conf

        configured = conf.get("holdfast", "evidence_folder", fallback="")
        if configured:
            return Path(configured).expanduser()
        state = os.environ.get("HOLDFAST_STATE") or os.environ.get("AIRFLOW_HOME") or "~/airflow"
        return Path(state).expanduser() / "evidence"
