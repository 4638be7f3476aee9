"""A process that syncs three folders, to be killed: ``syncing_process.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from holdfast.clock import SystemClock
from holdfast.engine.objectstore import local_store
from sync_harms import Trace
from sync_world import World


def main() -> None:
    folder = Path(sys.argv[1])
    stores = {name: local_store(name, folder / name) for name in ("aws", "gcp", "azure")}
    world = World(stores, clock=SystemClock())
    trace = Trace()
    print("begins", flush=True)
    report = world.sync(trace, threads=4)
    parts = {site: trace.count("put_part", site) for site in world.targets}
    print(json.dumps({"parts": parts, "errors": [target.error for target in report.targets]}), flush=True)


if __name__ == "__main__":
    main()
