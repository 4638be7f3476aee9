"""Sharded checkpoints: saved by four real processes over gloo, resumed by four, two, three or one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

HERE = Path(__file__).parent
STEPS = 8


class Launcher:
    """Runs of `sharded_worker`, each rank a process forked by one server that imported PyTorch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(HERE.parents[1]), *sys.path])
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "sharded_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )

    def __call__(self, world: int, store: Path, *, seconds: float = 60, **plan: Any) -> list[dict[str, Any]]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        store.mkdir(parents=True, exist_ok=True)
        request = {
            "world": world,
            "folder": str(folder),
            "seconds": seconds,
            "plan": {"steps": STEPS, "store": str(store), **plan},
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, "the server ended"
        for log in sorted(folder.glob("*.log")):
            if text := log.read_text(errors="replace"):
                print(f"--- {log.name}\n{text[-3000:]}")
        return json.loads(answer)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("ranks"))
    yield launcher
    launcher.close()


def test_first(launch: Launcher, tmp_path: Path) -> None:
    results = launch(4, tmp_path / "s", kind="noisy")
    print(json.dumps(results[0], indent=1)[:3000])
    print([r.get("error") for r in results], [r["seconds"] for r in results])
    results = launch(4, tmp_path / "s", kind="noisy", steps=10)
    print(json.dumps(results[0], indent=1)[:1000])
    print([r.get("error") for r in results], [r["seconds"] for r in results])
    assert 0
