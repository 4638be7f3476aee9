"""Read a document from whichever site has it, without waiting for one that hangs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.recovery.interface import Rooms


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: ``data`` is ``None`` when no site that answered has it; ``silent`` says who did not answer."""

    data: bytes | None
    site: str | None = None
    silent: tuple[str, ...] = ()


def find_anywhere(rooms: Rooms, sites: Sequence[str], key: str) -> Found:
    """The object from the site that answered first with it.

    All sites are asked at once: one that is cut off must not hold up those that are not.
    """
    stores = {site: rooms.store(site) for site in sites}  # a missing connection is told here
    pool = ThreadPoolExecutor(max(1, len(stores)), "anywhere")
    try:
        asked = {pool.submit(store.get, key): site for site, store in stores.items()}
        silent = []
        for answer in as_completed(asked):
            site = asked[answer]
            try:
                return Found(answer.result(), site)
            except ObjectNotFound:
                continue
            except ObjectStoreError as error:
                silent.append(f"{site}: {error}")
        return Found(None, silent=tuple(silent))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
