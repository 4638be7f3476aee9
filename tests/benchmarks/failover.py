"""``make bench-failover``: the drill from the command line, and how long each DAG file takes to parse cold.

Each round is a fresh sandbox: three emulated clouds, the group at work, one `holdfast drill run site-outage`. No rival
runs the same work (docs/performance.md says which systems come near); the targets are the project's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Case, write_results

ROOT = Path(__file__).parents[2]
HOLDFAST = Path(sys.executable).with_name("holdfast")
#: What is reported of a journal: name, where it stands, unit, target.
MEASURES = [
    ("decision to correct answer", ("rto_seconds", "from_decision"), "s", 5.0),
    ("detection to correct answer", ("rto_seconds", "from_detection"), "s", None),
    ("fault to correct answer", ("rto_seconds", "from_fault"), "s", 60.0),
    ("data lost", ("rpo", "seconds"), "s", 120.0),
    ("training steps lost", ("rpo", "training_steps"), "steps", None),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench/failover.json"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    journals = [drill(number) for number in range(options.rounds)]
    cases = [measured(name, path, unit, target, journals) for name, path, unit, target in MEASURES]
    cases += [parsed(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    write_results(options.output, cases, ["apache-airflow", "obstore", "xgboost-cpu", "moto"])


def drill(number: int) -> dict[str, Any]:
    """One drill in a sandbox of its own; its journal."""
    from holdfast.sandbox import Sandbox

    print(f"==> round {number + 1}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        box = Sandbox(Path(folder) / "state", topology=ROOT / "include" / "holdfast.yaml", owner_pid=os.getpid())
        box.up(timeout=120, agents=True)
        try:
            environment = {**os.environ, **box.environment()}
            for command in (
                [str(HOLDFAST), "sandbox", "scene"],
                [str(HOLDFAST), "drill", "run", "site-outage", "--output", f"{folder}/evidence"],
            ):
                subprocess.run(command, env=environment, cwd=ROOT, timeout=600, check=True)
        finally:
            box.down()
        document: dict[str, Any] = json.loads((Path(folder) / "evidence" / "journal.json").read_text())
        return document


def measured(name: str, path: tuple[str, str], unit: str, target: float | None, journals: list[dict[str, Any]]) -> Case:
    """The median of one measure over all journals; one that is unknown in any of them fails the benchmark."""
    runs = [journal[path[0]][path[1]] for journal in journals]
    if any(value is None for value in runs):
        raise SystemExit(f"{'.'.join(path)} is unknown in a journal: nothing to report")
    return Case(name, ".".join(path), unit, statistics.median(runs), target=target, runs=runs)


def parsed(path: Path, rounds: int = 5) -> Case:
    """Seconds to execute one DAG file in a fresh interpreter that has airflow.sdk imported."""
    code = (
        "import sys, time, runpy, airflow.sdk; t = time.perf_counter(); runpy.run_path(sys.argv[1]); "
        "print(time.perf_counter() - t)"
    )
    environment = {**os.environ, "HOLDFAST_TOPOLOGY": str(ROOT / "include" / "holdfast.yaml")}
    runs = [
        float(subprocess.check_output([sys.executable, "-c", code, str(path)], env=environment, timeout=60).split()[-1])
        for _ in range(rounds)
    ]
    return Case(f"parse {path.name}", "wall_seconds", "s", statistics.median(runs), target=1.0, runs=runs)


if __name__ == "__main__":
    main()
