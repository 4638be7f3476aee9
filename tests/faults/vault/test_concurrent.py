"""Several at once on one vault: all proceed, nothing is lost, nothing is left over."""

from __future__ import annotations

import dataclasses
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.vault.errors import Outdated, VaultExists
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault
from vault_faults import Sites, some_files

SEEDS = [pytest.param(n, marks=() if n < 4 else pytest.mark.slow) for n in range(16)]


@pytest.fixture(autouse=True)
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Yielding(StoreDecorator):
    """Lets others go first before some calls."""

    def __init__(self, inner, rng: random.Random) -> None:
        super().__init__(inner)
        self._rng = rng

    def _maybe(self) -> None:
        if self._rng.random() < 0.3:
            time.sleep(0.0005)

    def get(self, key, **kwargs):
        self._maybe()
        return self.inner.get(key, **kwargs)

    def put(self, key, data, **kwargs):
        self._maybe()
        return self.inner.put(key, data, **kwargs)

    def list(self, prefix="", **kwargs):
        self._maybe()
        return self.inner.list(prefix, **kwargs)


def together(*actions: Callable[[], object]) -> None:
    """Run them at once. Raises what any of them raised."""
    barrier = threading.Barrier(len(actions))
    errors: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        barrier.wait(30)
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    for error in errors:
        raise error


def again(action: Callable[[], object]) -> None:
    """As an orchestrator does with what may be tried again."""
    for _ in range(20):
        try:
            action()
            return
        except Outdated:
            continue
    raise AssertionError("outrun twenty times")


def scene(seed: int) -> tuple[Sites, random.Random]:
    rng = random.Random(seed)
    sites = Sites().make()
    for number in range(3):
        sites.back_up(some_files(number, count=4, size=200))
        sites.clock.advance(60)
    forget(sites.open("admin"), Keep(last=1))
    return sites, rng


def through(sites: Sites, rng: random.Random) -> Sites:
    """The same sites as another actor sees them."""
    return dataclasses.replace(sites, vault=Yielding(sites.vault, random.Random(rng.random())))


@pytest.mark.parametrize("seed", SEEDS)
def test_backups_and_collections_at_once(seed: int) -> None:
    """The backup brings back what the collection finds to be nobody's."""
    sites, rng = scene(seed)
    one, two = through(sites, rng), through(sites, rng)
    sleeper = sites.open("writer")
    done: list[str] = []

    def backups() -> None:
        for number in (0, 1, 2):
            again(
                lambda number=number: done.append(
                    one.back_up(
                        some_files(number, count=4, size=200),
                        state=f"again-{number}",
                        source=f"mine-{number}",
                        vault=sleeper if number == 0 else None,
                    ).backup.backup_id
                )
            )

    def collections() -> None:
        for _ in range(3):
            again(two.collect)

    together(backups, collections)
    sites.check_live(at_least=done)
    sites.clock.advance(10)
    sites.settle()
    sites.check_live(at_least=done)
    sites.check_verifies()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_backups_at_once(seed: int) -> None:
    sites, rng = scene(seed)
    files = some_files(9, count=6, size=200)
    done: list[str] = []

    def backup(name: str) -> Callable[[], None]:
        view = through(sites, rng)
        return lambda: done.append(view.back_up(files, source=name, state=f"of-{name}").backup.backup_id)

    together(backup("one"), backup("two"), backup("three"))
    assert len(set(done)) == 3
    sites.check_live(at_least=done)
    sites.clock.advance(10)
    sites.settle()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_collections_at_once(seed: int) -> None:
    sites, rng = scene(seed)
    kept = [backup.backup_id for backup in sites.live()]
    one, two = through(sites, rng), through(sites, rng)
    together(lambda: again(one.collect), lambda: again(two.collect))
    sites.check_live(at_least=kept)
    sites.clock.advance(10)
    sites.settle()


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_at_once(seed: int) -> None:
    """Backups, a retention, a collection, a mirror and a change of keys."""
    sites, rng = scene(seed)
    views = [through(sites, rng) for _ in range(5)]
    done: list[str] = []

    def change_keys() -> None:
        view = views[4]
        admin, reader = view.open("admin"), unlock(view.store(), "reader", sites.recipients)
        rotate_keys(admin, {"reader": sites.recipients}, reader=reader, new_generation=True)

    together(
        lambda: again(lambda: done.append(views[0].back_up(some_files(7), source="a", state="a").backup.backup_id)),
        lambda: again(lambda: forget(views[1].open("admin"), Keep(last=1), source="files")),
        lambda: again(views[2].collect),
        lambda: mirror_vault(views[3].store(), sites.mirror),
        lambda: again(change_keys),
    )
    sites.check_live(at_least=done)
    mirror_vault(sites.vault, sites.mirror)
    sites.check_live(at_least=done, store=sites.mirror)
    sites.clock.advance(10)
    sites.settle()


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_a_mirror_of_a_vault_that_goes_on_is_whole(seed: int) -> None:
    """Whatever was committed while it was copied waits for the next run: what is there is all there."""
    sites, rng = scene(seed)
    one, two = through(sites, rng), through(sites, rng)
    together(
        lambda: [one.back_up(some_files(number, count=3), state=f"m{number}") for number in range(3, 6)],
        lambda: mirror_vault(two.store(), sites.mirror),
    )
    blind = dataclasses.replace(sites, witnesses={"none": type(sites.vault)("none", sites.clock)})
    assert blind.check_live(store=sites.mirror)


def test_two_that_make_a_vault_at_once_make_one() -> None:
    for seed in range(10):
        sites = Sites()
        view = through(sites, random.Random(seed))
        refused: list[int] = []

        def make(view: Sites = view, refused: list[int] = refused) -> None:
            try:
                view.make()
            except VaultExists:
                refused.append(1)

        together(make, make, make)
        assert len(refused) == 2
        sites.back_up(some_files(count=2))
        sites.check_live()
        sites.clock.advance(100)
        sites.settle()
        assert len(sites.vault.objects("keys/")) == 6
