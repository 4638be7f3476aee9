"""Seal and verify realistic events of every kind of source, beside the naive row-by-row path over the same events.

    python tests/benchmarks/audit.py --output build/bench/audit.json [--events 1000000] [--many 10000000] [--rounds 3]

One process and one core a step: rates are events for each CPU-second. The naive path parses each event into Python
objects, keeps them and their leaves, writes one Parquet file at the end and makes the tree by recursion: what one
writes first, with fewer fields than ours. Reading from a bucket and inflating are not measured; `make bench-sync`
measures reads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Case, Cost, run_measured, write_results

HERE = Path(__file__).resolve().parent
WORKER = HERE / "audit_worker.py"
KINDS = ("cloudtrail", "cloud-logging", "azure-monitor", "kubernetes", "airflow", "holdfast")
NAIVE = "row by row"
_PACKAGES = ("pyarrow", "cryptography", "rfc8785")
#: Events for each CPU-second, seconds, bytes an event, bytes.
SEAL, VERIFY, PROOF, STORED, PEAK = 100_000, 500_000, 0.001, 250, 1024**3


def step(*arguments: str | Path) -> Cost:
    """One step in a process of its own, on one core."""
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return run_measured(command, environment, timeout_seconds=3600)


def stored(folder: Path) -> int:
    """Bytes of what was written."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def of_kind(kind: str, count: int, rounds: int, scratch: Path) -> list[Case]:
    """Seal and verify so many events of a kind, and the naive path over the same."""
    file = scratch / "events.jsonl"
    subprocess.run([sys.executable, str(WORKER), "make", kind, str(count), str(file)], check=True)
    mean = file.stat().st_size / count
    sealed: list[Cost] = []
    verified: list[Cost] = []
    naive: list[Cost] = []
    proven: list[Cost] = []
    size = naive_size = 0
    for _ in range(rounds):
        for folder in (scratch / "ours", scratch / "naive"):
            shutil.rmtree(folder, ignore_errors=True)
        sealed.append(step("seal", kind, file, scratch / "ours"))
        naive.append(step("naive", kind, file, scratch / "naive"))
        verified.append(step("verify", scratch / "ours"))
        size, naive_size = stored(scratch / "ours" / "export"), stored(scratch / "naive")
        proven.append(step("proof", scratch / "ours"))
        shutil.rmtree(scratch / "ours" / "proof")
    name = f"{kind}, {count:,} × {mean:.0f} B"
    cases = [
        rate(name, "seal", count, sealed, naive, SEAL),
        rate(name, "verify", count, verified, None, VERIFY),
        plain(name, "one proof checked", "s CPU", [one.cpu_seconds for one in proven], PROOF),
        plain(name, "stored an event", "B", [size / count], STORED, NAIVE, naive_size / count),
        plain(name, "peak of seal", "B", [one.peak_bytes for one in sealed], PEAK, NAIVE, peak(naive)),
        plain(name, "peak of verify", "B", [one.peak_bytes for one in verified], PEAK),
    ]
    file.unlink()
    return cases


def peak(costs: list[Cost]) -> float:
    return statistics.median(one.peak_bytes for one in costs)


def rate(name: str, what: str, count: int, ours: list[Cost], rival: list[Cost] | None, target: float) -> Case:
    """Events for each CPU-second; the ratio is ours to the rival's: above 1 we do more."""
    runs = [count / one.cpu_seconds for one in ours]
    value = statistics.median(runs)
    other = statistics.median(count / one.cpu_seconds for one in rival) if rival else None
    return Case(
        name,
        what,
        "events/CPU-s",
        value,
        NAIVE if rival else None,
        other,
        value / other if other else None,
        target,
        runs,
    )


def plain(
    name: str,
    what: str,
    unit: str,
    runs: list[float],
    target: float,
    rival: str | None = None,
    rival_value: float | None = None,
) -> Case:
    value = statistics.median(runs)
    return Case(name, what, unit, value, rival, rival_value, value / rival_value if rival_value else None, target, runs)


def many(count: int, scratch: Path) -> list[Case]:
    """So many CloudTrail events at once: memory must not grow. Without the naive path, which would not fit."""
    file = scratch / "events.jsonl"
    subprocess.run([sys.executable, str(WORKER), "make", "cloudtrail", str(count), str(file)], check=True)
    shutil.rmtree(scratch / "ours", ignore_errors=True)
    sealed = step("seal", "cloudtrail", file, scratch / "ours")
    file.unlink()
    verified = step("verify", scratch / "ours")
    name = f"cloudtrail, {count:,}"
    return [
        rate(name, "seal", count, [sealed], None, SEAL),
        rate(name, "verify", count, [verified], None, VERIFY),
        plain(name, "peak of seal", "B", [sealed.peak_bytes], PEAK),
        plain(name, "peak of verify", "B", [verified.peak_bytes], PEAK),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench/audit.json"))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--many", type=int, default=10_000_000, help="0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        for kind in options.kinds:
            cases += of_kind(kind, options.events, options.rounds, Path(scratch))
        if options.many:
            cases += many(options.many, Path(scratch))
    write_results(options.output, cases, _PACKAGES)


if __name__ == "__main__":
    main()
