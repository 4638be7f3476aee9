"""``make bench-training``: what a checkpoint costs a training loop, beside PyTorch's own ways of saving.

Every contender runs in a process of its own, one after the other, in interleaved rounds, and takes the copy of memory
it is compared with in that process. Medians over all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import Case, write_results

WORKER = Path(__file__).with_name("training_worker.py")
PACKAGES = ["torch", "obstore", "blake3", "safetensors"]
RIVALS = ["torch.save + fsync", "DCP save", "DCP async_save", "DCP async_save, process"]
MODES = ["blocking", "copy", "overlap"]
#: The issue's bars: stall per save, at most, as multiples of one copy of the state and of torch.save + fsync.
COPIES = {"copy": 1.5, "overlap": 0.1}
OF_TORCH_SAVE = {"copy": 0.1, "overlap": 0.1}
LAYERS = 40


def work(case: str, *arguments: object) -> dict[str, Any]:
    """One worker's answer. Raises SystemExit with what it said when it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(WORKER), case, json.dumps(arguments)],
        env=environment, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    line = next((one for one in done.stdout.splitlines() if one.startswith("result=")), None)
    if line is None:
        raise SystemExit(f"{case} {arguments} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(line.removeprefix("result="))
    return answer


def interleaved(names: Sequence[str], run: Callable[[str, str], dict[str, Any]], rounds: int) -> dict[str, list[Any]]:
    """Every contender once a round, each in an empty folder."""
    runs: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
                runs[name].append(run(name, folder))
        print(f"  round {number + 1} of {rounds}", flush=True)
    return runs


def case_a(cases: list[Case], rounds: int, scale: float) -> None:
    """Stall per save."""
    layers, saves = max(2, int(LAYERS * scale)), 3
    print(f"==> a: stall per save, {layers} layers")
    runs = interleaved(
        [*RIVALS, *MODES], lambda name, folder: work("stall", name, folder, layers, saves), rounds
    )  # fmt: skip
    mib = runs["copy"][0]["state_bytes"] / 2**20
    title = f"a: stall, {mib:.0f} MiB"
    copies = [one["memcpy"] for answers in runs.values() for one in answers]
    memcpy = statistics.median(copies)
    cases.append(Case(f"{title}, one memcpy", "seconds", "s", memcpy, runs=copies))
    torch_save = statistics.median(stall for one in runs[RIVALS[0]] for stall in one["stalls"])
    for name, answers in runs.items():
        stalls = [stall for one in answers for stall in one["stalls"]]
        of_copy = statistics.median(stall / one["memcpy"] for one in answers for stall in one["stalls"])
        value = statistics.median(stalls)
        cases.append(
            Case(f"{title}, {name}", "stall", "s", value, "one memcpy", memcpy, of_copy, COPIES.get(name), stalls)
        )
        if name in MODES:
            bar = OF_TORCH_SAVE.get(name)
            cases.append(
                Case(f"{title}, {name}", "stall", "s", value, RIVALS[0], torch_save, value / torch_save, bar, stalls)
            )
        firsts = [one["first"] for one in answers]
        cases.append(Case(f"{title}, {name}", "first_stall", "s", statistics.median(firsts), runs=firsts))
        cpu = [spent for one in answers for spent in one["cpu"]]
        cases.append(Case(f"{title}, {name}", "cpu_seconds", "s", statistics.median(cpu), runs=cpu))
        peaks = [float(one["peak_bytes"]) for one in answers]
        cases.append(Case(f"{title}, {name}", "peak_bytes", "B", statistics.median(peaks), runs=peaks))


def case_b(cases: list[Case], rounds: int, scale: float, *, seconds: float = 95.0, every_seconds: float = 30.0) -> None:
    """A whole run with a save every 30 s, beside the same steps without."""
    layers = max(2, int(LAYERS * scale))
    seconds, every_seconds = seconds * max(scale, 0.05), every_seconds * max(scale, 0.05)
    with tempfile.TemporaryDirectory() as folder:
        step = work("whole_run", "no save", folder, layers, 20, every_seconds)["wall"] / 20
    steps = max(20, int(seconds / step))
    print(f"==> b: {steps} steps of {step:.3f} s, a save every {every_seconds:g} s")
    names = ["no save", RIVALS[0], "copy", "overlap"]
    runs = interleaved(
        names, lambda name, folder: work("whole_run", name, folder, layers, steps, every_seconds), rounds
    )  # fmt: skip
    for metric, unit in (("wall", "s"), ("cpu", "s"), ("peak_bytes", "B")):
        base = statistics.median(one[metric] for one in runs["no save"])
        for name in names[1:]:
            # Each beside the run of its own round: the machine's pace changes between rounds.
            pairs = zip(runs[name], runs["no save"], strict=True)
            ratio = statistics.median(one[metric] / other[metric] for one, other in pairs)
            values = [float(one[metric]) for one in runs[name]]
            title = f"b: {steps} steps, {runs[name][0]['saves']} saves, {name}"
            cases.append(Case(title, metric, unit, statistics.median(values), "no save", base, ratio, None, values))


def case_c(cases: list[Case], rounds: int, scale: float) -> None:
    """Restore: every byte verified, beside ways that verify nothing."""
    layers = max(2, int(LAYERS * scale))
    print("==> c: restore")
    names = ["holdfast, verified", "torch.load", "torch.load, mmap", "DCP load"]
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        made = work("prepare", folder, layers)
        runs = interleaved(names, lambda name, _: work("restore", name, folder, layers, made["digest"]), rounds)
    title = f"c: restore {made['state_bytes'] / 2**20:.0f} MiB"
    for metric, unit in (("wall", "s"), ("cpu", "s"), ("peak_bytes", "B")):
        mine = [float(one[metric]) for one in runs[names[0]]]
        value = statistics.median(mine)
        for rival in names[1:]:
            other = statistics.median(one[metric] for one in runs[rival])
            cases.append(Case(title, metric, unit, value, rival, other, value / other, None, mine))


def case_d(cases: list[Case], rounds: int, scale: float) -> None:
    """Bytes written where nine layers of ten do not train; a count, so one round says it."""
    layers, saves = max(10, int(LAYERS * scale)), 10
    print("==> d: a frozen backbone")
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        answer = work("frozen", folder, layers, saves)
    value, other = float(answer["written"]), float(answer["full"])
    title = f"d: {saves} saves, {layers * 9 // 10} of {layers} layers frozen"
    cases.append(Case(title, "bytes_written", "B", value, "torch.save", other, value / other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench/training.json"))
    parser.add_argument("--case", default="abcd", help="which of them, e.g. ac")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the state; 1 is about 500 MB")
    asked = parser.parse_args()
    cases: list[Case] = []
    for name, case in (("a", case_a), ("c", case_c), ("d", case_d), ("b", case_b)):
        if name in asked.case:
            case(cases, asked.rounds if name != "b" else min(asked.rounds, 3), asked.scale)
    if not _has_gpu():
        print("no GPU here: none of the cases ran on one")
    write_results(asked.output, cases, PACKAGES)


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
