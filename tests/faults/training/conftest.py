"""The warm process that training processes are forked from, the emulated S3, and the suite of each file."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.training.suite import Suite, s3_server

#: Equal in every training process, or their sums would be others.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@pytest.fixture(scope="session")
def _warm_process(request: pytest.FixtureRequest) -> None:
    """What the training processes are forked from; everything slow is imported there once."""
    tests = str(Path(__file__).parents[2])
    torch = any(item.get_closest_marker("torch") for item in request.session.items)
    preload = ["faults.training.warm", *(["faults.training.warm_torch"] if torch else [])]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    with pytest.MonkeyPatch.context() as patch:
        for name in THREADS:
            patch.setenv(name, "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH")))))
        from multiprocessing.forkserver import ensure_running

        ensure_running()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    yield from s3_server()


@pytest.fixture(scope="module")
def suite(_warm_process: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Suite:
    return Suite(tmp_path_factory.mktemp("runs"), lambda: str(request.getfixturevalue("s3_url")))
