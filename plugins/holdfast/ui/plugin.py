"""The plugin Airflow registers."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin


class HoldfastPlugin(AirflowPlugin):
    """Holdfast in Airflow's plugin list. Pages and operator links are to be added here."""

    name = "holdfast"
