"""A forked child of a process that has used a store is told so at once; one forked before works."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

COMMON = """
import os, sys
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.errors import ObjectStoreError

store = memory_store()

def use():
    try:
        store.put("x", b"1")
        return b"worked"
    except ObjectStoreError as error:
        return str(error).encode()

def in_child():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, use())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    return os.read(read, 4096).decode()
"""


def run(script: str) -> str:
    command = [sys.executable, "-c", COMMON + textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_a_store_made_before_the_fork_works_in_the_child_and_in_the_parent() -> None:
    assert run("print(in_child()); print(use().decode())").split() == ["worked", "worked"]


def test_a_store_used_before_the_fork_is_one_clear_error_in_the_child() -> None:
    output = run("use(); print(in_child()); print(use().decode())")
    assert "forked from one that already used an object store" in output
    assert output.split()[-1] == "worked", "the parent goes on"


def test_a_short_process_that_streams_ends_without_aborting() -> None:
    script = "store.put('x', (b'x' * 1000_000 for _ in range(20))); print(sum(map(len, store.open('x'))))"
    assert run(script).split() == ["20000000"]
