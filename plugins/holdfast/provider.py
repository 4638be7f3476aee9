"""What Airflow's provider discovery reads: the name of this provider and its configuration options.

Airflow loads this module in every one of its processes, so it imports nothing.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description in the form of Airflow's ``provider_info.schema.json``.

    There is no connection type of its own: a site is reached through the connection of its cloud
    (``aws``, ``google_cloud_platform``, ``wasb``), which the topology names.
    """
    return {
        "package-name": "holdfast",
        "name": "Holdfast",
        "description": "Keeps machine-learning pipelines alive when a cloud is lost, and proves it.",
        "integrations": [{"integration-name": "Holdfast", "tags": ["software"]}],
        "operators": [
            {
                "integration-name": "Holdfast",
                "python-modules": [
                    f"holdfast.operators.{name}"
                    for name in ("cost", "drill", "quality", "recovery", "replication", "snapshot", "sync", "training")
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "Holdfast",
                "python-modules": ["holdfast.sensors.health", "holdfast.sensors.lag", "holdfast.sensors.training"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Holdfast",
                "python-modules": [
                    "holdfast.triggers.health",
                    "holdfast.triggers.lag",
                    "holdfast.triggers.training",
                    "holdfast.triggers.work_at_risk",
                ],
            }
        ],
        "extra-links": ["holdfast.operators.links.JobLogsLink", "holdfast.operators.links.JobConsoleLink"],
        "config": {
            "holdfast": {
                "description": "Options of Holdfast's operators, hooks and DAGs.",
                "options": {
                    "topology": {
                        "description": (
                            "The topology file: sites, protection groups, objectives. When empty, the environment "
                            "variable HOLDFAST_TOPOLOGY is taken, then include/holdfast.yaml beside the DAGs folder."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/opt/airflow/include/holdfast.yaml",
                        "default": "",
                    },
                    "evidence_folder": {
                        "description": "Where drills write journal, report and signature, one folder per drill. "
                        "When empty: the folder evidence under HOLDFAST_STATE, or under AIRFLOW_HOME.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/var/lib/holdfast/evidence",
                        "default": "",
                    },
                    "fault_injector": {
                        "description": "Import path of the class that injects faults in drills; it is called with the "
                        "environment of the worker.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "mycompany.chaos.AccountFreezer",
                        "default": "holdfast.sandbox.faults.SandboxFaults",
                    },
                },
            }
        },
    }
