"""``airflow …`` with what Holdfast's tasks import already imported: ``python -m holdfast.hooks.preload scheduler``.

The LocalExecutor forks every task from the scheduler. The provider hooks of three clouds and the engine take some
three seconds of a core to import; imported here they are there in every fork, and a failover does not wait for them.
"""

from __future__ import annotations

import importlib
import sys

MODULES = (
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.google.common.hooks.base_google",
    "airflow.providers.microsoft.azure.hooks.wasb",
    "holdfast.engine.pipeline.drills",
    "holdfast.engine.pipeline.sync",
    "holdfast.hooks.runtime",
    "holdfast.hooks.site",
    "holdfast.hooks.aws",
    "holdfast.hooks.azure",
    "holdfast.hooks.gcp",
    "holdfast.operators.drill",
    "holdfast.operators.recovery",
    "holdfast.operators.replication",
    "holdfast.operators.sync",
    "holdfast.operators.training",
)


def main() -> None:
    """Import, then be Airflow."""
    from airflow.__main__ import main as airflow

    for name in MODULES:
        importlib.import_module(name)
    sys.argv[0] = "airflow"
    airflow()


if __name__ == "__main__":
    main()
