"""Ctrl-C on a real `holdfast sync run`: it ends cleanly, and the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from folders import folder_runtime, make_folders
from holdfast.engine.pipeline import replicas, sync

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).parent / "sync_program.py"


def data_at(topology: Path, site: str) -> list[Path]:
    return list((topology.parent / site / "data").rglob("*.bin"))


def interrupted(topology: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a run, send the signal when the first objects are at a target, and wait for its end."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(topology), "0.1", "sync", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    until = time.monotonic() + 60
    while not data_at(topology, "site-b"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_run_cleanly_and_the_next_one_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    topology = make_folders(tmp_path)
    (tmp_path / "site-a" / "data" / "prices").mkdir(parents=True)
    for index in range(200):
        (tmp_path / "site-a" / "data" / "prices" / f"part-{index}.bin").write_bytes(b"x" * 100)
    done = interrupted(topology, number)
    assert done.returncode == 130, done.stderr
    assert "holdfast sync run --group desk --dataset prices" in done.stderr
    assert "Traceback" not in done.stderr
    runtime = folder_runtime(topology)
    assert replicas.snapshots(runtime, "desk", "prices", site="site-b") == ()
    copied = len(data_at(topology, "site-b"))
    assert 0 < copied < 200
    report = sync.run(runtime, "desk", "prices")
    target: Any = {one.site: one for one in report.targets}["site-b"]
    assert target.verified_objects == 200
    assert target.copied_objects <= 200 - copied
    assert all(one.ok for one in replicas.verify_everywhere(runtime, "desk", "prices"))
