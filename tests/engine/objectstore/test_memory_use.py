"""A stream needs the same memory whatever its size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.sandbox import Sandbox

SCRIPT = """
import resource, sys
from holdfast.engine.runtime import Runtime

MEBIBYTE, size = 1024 * 1024, int(sys.argv[1])
store = Runtime.from_environment().store("gcp-europe-west1")
store.put("memory/warm", (bytes(MEBIBYTE) for _ in range(64)))
sum(map(len, store.open("memory/warm")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put("memory/large", (bytes(MEBIBYTE) for _ in range(size)))
assert sum(map(len, store.open("memory/large"))) == size * MEBIBYTE
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux")
def test_half_a_gibibyte_streams_through_the_memory_of_64_mebibytes(sandbox: Sandbox, tmp_path: Path) -> None:
    environ = {**os.environ, **sandbox.environment()}
    command = [sys.executable, "-c", SCRIPT, "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64, f"{done.stdout} MiB more than for 64 MiB"
