"""A listing is no moment: what changes between two of its pages must not make a state the source never had."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore import memory_store
from sync_harms import PAGE_OBJECTS, Harm, Op, Trace
from sync_world import World

NAMES = [f"o{number}" for number in range(2 * PAGE_OBJECTS)]


class BetweenPages(Harm):
    """Before the n-th look at the source's second page: an object of the first page changes, one of the second goes."""

    def __init__(self, world: World, nth: int) -> None:
        self._world, self._nth, self._looks = world, nth, 0
        self._page_of_look = 0

    def before(self, op: Op) -> None:
        if (op.site, op.verb) != ("aws", "list") or not op.key.startswith("data/"):
            self._page_of_look = 0
            return
        self._page_of_look += 1
        if self._page_of_look == 2:
            self._looks += 1
            if self._looks == self._nth:
                self._world.source.put(NAMES[0], b"changed")
                self._world.source.delete(NAMES[-1])


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_listing_that_changes_between_its_pages_is_not_believed(nth):
    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    for name in NAMES:
        world.source.put(name, name.encode())
    harm = BetweenPages(world, nth)
    since = world.source.now()
    report = world.sync(Trace([harm]))
    world.check_claims(report, since)
    world.check_everything_shown()
    world.sync()
    assert world.shows("gcp") == world.source.live
