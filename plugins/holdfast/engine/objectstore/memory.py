"""A store in this process's memory: full semantics, for tests and dry runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.engine.objectstore._obstore import ObstoreStore, Traits
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.parts.memory import MemoryParts
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

TRAITS = Traits(
    capabilities=Capabilities(
        backend="memory",
        create_only=True,
        compare_and_swap=True,
        pinned_reads=True,
        ranged_reads=True,
        streamed_puts=True,
        create_only_streamed=False,
        metadata=True,
        server_side_copy=True,
        versions=False,
    ),
    head_hides_bucket=False,
)


def memory_store(name: str = "memory", *, prefix: str = "") -> ObstoreStore:
    """A new, empty store. Its bytes live as long as it does."""
    made: list[Client] = []

    def build(_: RequestLimits) -> Client:
        # One client for every timeout: another would be another, empty store.
        if not made:
            from obstore.store import MemoryStore

            made.append(MemoryStore())
        return made[0]

    return ObstoreStore(
        name=f"{name} (memory)", prefix=prefix, traits=TRAITS, build=build, timeouts=Timeouts(), parts=MemoryParts
    )
