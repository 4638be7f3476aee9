"""The only file Airflow's plugin loader runs in this folder; `.airflowignore` keeps it from the package beside it.

Where the wheel is installed its entry point already names the plugin, and a second one of the same name would show up
as an import error in the UI. So this shim offers the plugin only where the package merely lies in the plugins folder.
"""

from __future__ import annotations

from importlib.metadata import entry_points

if not any(found.value.startswith("holdfast.") for found in entry_points(group="airflow.plugins")):
    from holdfast.ui.plugin import HoldfastPlugin

    __all__ = ["HoldfastPlugin"]
