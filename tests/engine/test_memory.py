"""Memory of large blocks: used again while packs go by, given back afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PAGES_IN_A_BLOCK = 16 * 1024 * 1024 // 4096
_CODE = """
import resource
from holdfast.engine.memory import blocks_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = b"1" * (16 * 1024 * 1024)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with blocks_kept():
    faults()
    with blocks_kept():
        pass
    kept = faults()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_block_is_faulted_in_once_and_goes_back_at_the_end() -> None:
    found = subprocess.check_output([sys.executable, "-c", _CODE], text=True, timeout=120)
    kept, afterwards = map(int, found.split())
    assert kept < _PAGES_IN_A_BLOCK
    assert afterwards > 9 * _PAGES_IN_A_BLOCK
