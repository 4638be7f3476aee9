"""Pages of obstore's listing made exact: whatever obstore shows, the keys given out are the bucket's, each once."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from holdfast.engine.objectstore.exact import Exact, Reading
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion
from holdfast.engine.objectstore.pages import table_of

AT = datetime(2026, 1, 1, tzinfo=UTC)


def info(key: str, size_bytes: int) -> ObjectInfo:
    return ObjectInfo(key, size_bytes, AT, ObjectVersion(f'"{key}"'))


class Bucket:
    """Objects, as the service lists them in small pages."""

    def __init__(self, sizes: dict[str, int], page: int = 3) -> None:
        self.objects = [info(key, sizes[key]) for key in sorted(sizes)]
        self.page, self.asked = page, 0

    def listed(self, wanted, after):
        self.asked += 1
        rows = [one for one in self.objects if one.key.startswith(wanted) and (after is None or one.key > after)]
        for start in range(0, max(len(rows), 1), self.page):
            yield rows[start : start + self.page]

    def shown(self) -> list[pa.Table]:
        """As obstore shows them: without a slash at the end."""
        pages = [self.objects[start : start + self.page] for start in range(0, len(self.objects), self.page)]
        return [table_of(info(one.key.rstrip("/"), one.size_bytes) for one in page) for page in pages]


def keys_of(bucket: Bucket, exact: Exact | None = None, after: str | None = None) -> list[str]:
    reading = Reading(exact or Exact(bucket), "", after)
    return [key for page in bucket.shown() for rows in reading.page(page) for key in rows["key"].to_pylist()]


NAMES = ["a", "a/", "a-b", "a.b", "a/b", "a/b/", "a/b-", "a/b/c", "b/", "b/x", "b-", "c", "d/e/", "d", "d-1", "d/e"]


@pytest.mark.parametrize("seed", range(200))
def test_every_key_comes_once_and_in_order(seed):
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randrange(1, len(NAMES)))
    sizes = {name: 0 if name.endswith("/") or rng.random() < 0.2 else 1 for name in names}
    bucket = Bucket(sizes, page=rng.choice((1, 2, 3, 5, 100)))
    assert keys_of(bucket) == sorted(sizes)
    for after in NAMES:
        assert keys_of(bucket, after=after) == sorted(key for key in sizes if key > after)


def test_pages_without_empty_objects_are_not_asked_for_again():
    bucket = Bucket({f"k{number:02}": 1 for number in range(20)})
    assert keys_of(bucket) == [f"k{number:02}" for number in range(20)]
    assert bucket.asked == 0


def test_a_key_that_was_not_found_is_listed_with_its_slash_from_then_on():
    bucket = Bucket({"a": 1, "trail/": 1, "z": 1})
    exact = Exact(bucket)
    assert keys_of(bucket, exact) == ["a", "trail", "z"], "nothing tells it from an object of that name"
    exact.missed("a")
    exact.missed("trail")
    assert keys_of(bucket, exact) == ["a", "trail/", "z"]
