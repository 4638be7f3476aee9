"""The plugin Airflow registers."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin


class HoldfastPlugin(AirflowPlugin):
    """Holdfast in Airflow's plugin list. Pages are to be added here; operator links need no plugin."""

    name = "holdfast"
