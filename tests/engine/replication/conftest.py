"""Two or three sites in memory, and a store that dies at its n-th operation."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Site
from holdfast.engine.objectstore import memory_store
from holdfast.engine.replication import replicate
from holdfast.engine.snapshot import latest, new_fork, root, take_and_publish, write_fork


class Killed(BaseException):
    """The process is gone: no ``except Exception`` sees it."""


class Mortal:
    """A store whose process dies at one operation, before or after the store did it, and stays dead."""

    def __init__(self, store, *, dies_at: int | None = None, after: bool = False, dies_putting: str = "\0") -> None:
        self._store, self._dies_at, self._after, self._dies_putting = store, dies_at, after, dies_putting
        self._lock = threading.Lock()
        self.operations: list[tuple[str, str]] = []

    @property
    def name(self):
        return self._store.name

    def capabilities(self):
        return self._store.capabilities()

    def _run(self, verb, key, call):
        with self._lock:
            index = len(self.operations)
            self.operations.append((verb, key))
            if verb == "put" and self._dies_putting in key:
                self._dies_at = index
        if self._dies_at is not None and (index > self._dies_at or (index == self._dies_at and not self._after)):
            raise Killed(f"before {verb} {key}")
        result = call()
        if index == self._dies_at:
            raise Killed(f"after {verb} {key}")
        return result

    def list(self, prefix="", **kwargs):
        return iter(self._run("list", prefix, lambda: list(self._store.list(prefix, **kwargs))))

    def head(self, key):
        return self._run("head", key, lambda: self._store.head(key))

    def get(self, key, **kwargs):
        return self._run("get", key, lambda: self._store.get(key, **kwargs))

    def open(self, key, **kwargs):
        return self._run("open", key, lambda: self._store.open(key, **kwargs))

    def put(self, key, data, **kwargs):
        return self._run("put", key, lambda: self._store.put(key, data, **kwargs))

    def copy(self, source, target):
        return self._run("copy", source, lambda: self._store.copy(source, target))

    def delete(self, key):
        return self._run("delete", key, lambda: self._store.delete(key))


SITES = {
    "aws": Site(cloud="aws", region="eu-west-1", jurisdiction="EU", connection="c", bucket="b"),
    "gcp": Site(cloud="gcp", region="europe-west1", jurisdiction="EU", connection="c", bucket="b"),
    "azure": Site(cloud="azure", region="eastus", jurisdiction="US", connection="c", bucket="b"),
}


class World(SimpleNamespace):
    def put(self, site, **files):
        for name, data in files.items():
            self.stores[site].put(f"data/market/{name}", data)

    def drop(self, site, *names):
        for name in names:
            self.stores[site].delete(f"data/market/{name}")

    def publish(self, site="aws", epoch=1):
        self.clock.advance(1)
        return take_and_publish(
            self.stores[site], dataset="market", path="market", epoch=epoch, site=site, clock=self.clock
        )

    def bring(self, record, source="aws", target="gcp", *, source_store=None, target_store=None, threads=4, **kwargs):
        self.clock.advance(1)
        return replicate(
            source_store or self.stores[source],
            target_store or self.stores[target],
            record=record,
            source_site=source,
            target_site=target,
            residency=kwargs.pop("residency", None),
            topology_sites=SITES,
            clock=self.clock,
            threads=threads,
            **kwargs,
        )

    def latest(self, site, epoch=1):
        return latest(self.stores[site], "market", epoch=epoch)

    def fork(self, site, epoch, forked_from, plan="p"):
        return write_fork(
            self.stores[site],
            root("market"),
            new_fork(
                "market",
                epoch=epoch,
                parent_epoch=epoch - 1,
                forked_from=forked_from,
                site=site,
                plan_id=plan,
                holder="test",
                reason="test",
                created_at=self.clock.now(),
            ),
        )


@pytest.fixture
def world():
    return World(stores={name: memory_store(name) for name in SITES}, clock=FakeClock(), sites=SITES)


@pytest.fixture
def mortal():
    return Mortal


@pytest.fixture
def killed():
    return Killed
