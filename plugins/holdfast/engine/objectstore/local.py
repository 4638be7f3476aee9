"""A folder as a store: for one machine and for tests.

It has create-only puts (a hard link that fails if the name is taken) and no compare-and-swap. One could be emulated
with a lock file, but it would hold only among writers that take the lock, on file systems that honour it: a promise
nobody can check.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.engine.objectstore._obstore import ObstoreStore, Traits
from holdfast.engine.objectstore._translate import Call, bucket_not_found
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.pages import Split
from holdfast.engine.objectstore.parts.interface import PartStore
from holdfast.engine.objectstore.parts.local import LocalParts
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

TRAITS = Traits(
    capabilities=Capabilities(
        backend="local",
        create_only=True,
        compare_and_swap=False,
        pinned_reads=True,
        ranged_reads=True,
        streamed_puts=True,
        create_only_streamed=False,
        metadata=False,
        server_side_copy=True,
        versions=False,
        notes=(
            "No key may be a folder of another: `a` and `a/b` exclude each other.",
            "A version is inode, time and size; a listing is sorted in memory.",
        ),
    ),
    sorted_listing=False,
    listing_split=Split.NOTHING,
    head_hides_bucket=False,
)


class LocalFolderStore(ObstoreStore):
    """`ObstoreStore` that never makes its own root folder: a missing one is a missing bucket."""

    def __init__(self, *, name: str, root: Path, prefix: str, timeouts: Timeouts) -> None:
        self._root = root

        def build(_: RequestLimits) -> Client:
            from obstore.store import LocalStore

            return LocalStore(root)

        def parts(store: ObstoreStore) -> PartStore:
            return LocalParts(store, root)

        super().__init__(name=name, prefix=prefix, traits=TRAITS, build=build, timeouts=timeouts, parts=parts)

    def _client(self, limits: RequestLimits | None = None) -> Client:
        if not self._root.is_dir():
            raise bucket_not_found(Call(self.name, "open", None, writes=False), str(self._root))
        return super()._client(limits)


def local_store(
    name: str, folder: Path | str, *, prefix: str = "", timeouts: Timeouts | None = None
) -> LocalFolderStore:
    """The store in a folder, which must be there."""
    root = Path(folder)
    return LocalFolderStore(name=f"{name} (file://{root})", root=root, prefix=prefix, timeouts=timeouts or Timeouts())
