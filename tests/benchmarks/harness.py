"""What every benchmark shares: a measured run in its own process, its CPU seconds and peak memory, the results."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one run took: wall and CPU seconds, and the peak resident memory of its largest process."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Case:
    """One line of a result file. ``ratio`` is value / rival_value: below 1 we took less."""

    case: str
    metric: str
    unit: str
    value: float
    rival: str | None = None
    rival_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    runs: list[float] = field(default_factory=list)


def run_measured(command: Sequence[str], environment: Mapping[str, str], *, timeout_seconds: float) -> Cost:
    """Run a command to its end and measure it and the children it waited for.

    A line ``measured=[wall, cpu]`` it prints replaces what was measured outside, ``peak_bytes=N`` its peak: a child's
    resource usage may carry its parent's peak from before the exec.

    Raises CalledProcessError with its output shown.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        process = subprocess.Popen(list(command), env={**os.environ, **environment}, stdout=output, stderr=errors)
        watchdog = threading.Timer(timeout_seconds, process.kill)
        watchdog.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watchdog.cancel()
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        said = output.read()
        if process.returncode:
            sys.stderr.write(said[-4000:] + errors.read()[-4000:])
            raise subprocess.CalledProcessError(process.returncode, command)
        if warned := errors.read() if errors.seek(0) == 0 else "":
            sys.stderr.write(warned[-500:])
    measured = _said(said, "measured=")
    cpu = usage.ru_utime + usage.ru_stime
    if measured is not None:
        wall, cpu = json.loads(measured)
    peak = _said(said, "peak_bytes=")
    return Cost(wall, cpu, int(peak) if peak is not None else usage.ru_maxrss * 1024)


def _said(output: str, name: str) -> str | None:
    """The last line of this name."""
    return next((line.removeprefix(name) for line in reversed(output.splitlines()) if line.startswith(name)), None)


def print_peak() -> None:
    """What a measured worker calls last."""
    print(f"peak_bytes={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")


def compare(
    name: str,
    ours: Callable[[int], Cost],
    rival: str,
    theirs: Callable[[int], Cost],
    *,
    rounds: int,
    target: float | None,
) -> list[Case]:
    """Interleave both sides and report medians: wall seconds (target on the ratio), CPU seconds and peak memory."""
    pairs = [(ours(number), theirs(number)) for number in range(rounds)]
    cases = []
    for metric, unit in (("wall_seconds", "s"), ("cpu_seconds", "s"), ("peak_bytes", "B")):
        mine = [getattr(a, metric) for a, _ in pairs]
        other = [getattr(b, metric) for _, b in pairs]
        value, rival_value = statistics.median(mine), statistics.median(other)
        ratio = value / rival_value if rival_value else None
        cases.append(
            Case(
                name, metric, unit, value, rival, rival_value, ratio, target if metric == "wall_seconds" else None, mine
            )
        )
    return cases


def write_results(
    path: Path, cases: Sequence[Case], packages: Sequence[str], versions: Mapping[str, str] | None = None
) -> None:
    """Write the result file and print it as a table.

    Args:
        packages: whose versions are noted.
        versions: of what is no package.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {**{name: _version(name) for name in packages}, **(versions or {})},
        "cases": [asdict(case) for case in cases],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{'case':40} {'metric':14} {'value':>12} {'rival':>12} {'ratio':>7} {'target':>7}")
    for case in cases:
        print(
            f"{case.case:40} {case.metric:14} {_number(case.value):>12} {_number(case.rival_value):>12} "
            f"{_number(case.ratio):>7} {_number(case.target):>7}"
        )
    print(f"written: {path}")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**20:.0f} MiB" if value > 1e6 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
