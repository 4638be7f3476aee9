"""A streamed put fed by a streamed read of another store."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from holdfast.engine.objectstore.handover import Handover
from holdfast.engine.runtime import Runtime


@pytest.mark.parametrize(
    ("source_site", "target_site"),
    [
        ("aws-eu-west-1", "gcp-europe-west1"),
        ("gcp-europe-west1", "azure-westeurope"),
        ("azure-westeurope", "aws-eu-west-1"),
    ],
)
def test_a_large_object_streams_from_one_cloud_into_another(
    sandbox_env: dict[str, str], source_site: str, target_site: str
) -> None:
    runtime = Runtime.from_environment(environ=sandbox_env)
    source, target = runtime.store(source_site), runtime.store(target_site)
    body = bytes(range(256)) * (40 * 4096)
    source.put("handover/large.bin", body)
    target.put("handover/copy.bin", iter(source.open("handover/large.bin")))
    assert target.get("handover/copy.bin") == body


def test_what_the_source_raises_reaches_the_reader() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("the source broke")

    with Handover(broken()) as chunks:
        assert next(chunks) == b"a"
        with pytest.raises(ValueError, match="the source broke"):
            next(chunks)


def test_a_reader_that_leaves_early_leaves_no_thread() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    with Handover(endless()) as chunks:
        next(chunks)
    assert not any(thread.name == "objectstore-handover" for thread in threading.enumerate())
