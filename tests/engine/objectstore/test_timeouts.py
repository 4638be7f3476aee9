"""Small requests are bounded tightly; what carries bytes gets time for them, a silent answer none."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore import Timeouts
from holdfast.engine.objectstore.timeouts import RequestLimits

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("size_bytes", "total_seconds"),
    [
        (0, 10),
        (MEBIBYTE, 10),
        (2 * MEBIBYTE, 11),
        (32 * MEBIBYTE, 18),
        (33 * MEBIBYTE, 26),
        (1024 * MEBIBYTE, 266),
    ],
)
def test_a_write_may_take_the_time_its_bytes_need(size_bytes: int, total_seconds: float) -> None:
    assert Timeouts().writing(size_bytes) == RequestLimits(2, None, total_seconds)


def test_a_read_of_any_size_may_not_be_silent_for_longer_than_a_small_one() -> None:
    assert Timeouts().reading(0) == RequestLimits(2, None, 10)
    assert Timeouts().reading(32 * MEBIBYTE) == RequestLimits(2, 10, 18)


def test_sizes_share_few_limits() -> None:
    assert len({Timeouts().writing(size * MEBIBYTE) for size in range(2000)}) <= 12


def test_connecting_takes_no_longer_than_the_request() -> None:
    assert Timeouts(connect_seconds=5, request_seconds=1).writing(0).connect_seconds == 1
