"""Locks of an erasure-coded vault: every site's own, since each holds a share or a copy under the same key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.errors import ConfigError


def protect_everywhere(store: ErasureStore, protectors: Mapping[str, Callable[[str], None]]) -> Callable[[str], None]:
    """What to pass as ``protect``: locks an object at every site.

    Where another site than the first cannot, it is told in `ErasureStore.incomplete`, as what is not written there is.

    Args:
        protectors: by site, e.g. a `Protector` of its locks.

    Raises:
        ConfigError: a site is left out.
    """
    _check_all(store, protectors)

    def protect(key: str) -> None:
        protectors[store.sites.first.name](key)
        for site in store.sites.others:
            try:
                protectors[site.name](key)
            except ObjectStoreError:
                store.note_incomplete(site, key, "not locked there")

    return protect


def remove_everywhere(store: ErasureStore, removers: Mapping[str, Callable[[str], None]]) -> Callable[[str], None]:
    """What to pass as `CollectOptions.remove`: removes an object for good at every site, at the first one last.

    Args:
        removers: by site, `ObjectLocks.remove` of its locks.

    Raises:
        ConfigError: a site is left out.
    """
    _check_all(store, removers)

    def remove(key: str) -> None:
        store.shares.forget(key)
        for site in (*store.sites.others, store.sites.first):
            removers[site.name](key)

    return remove


def _check_all(store: ErasureStore, given: Mapping[str, object]) -> None:
    wanted = {site.name for site in store.sites.all}
    if given.keys() != wanted:
        raise ConfigError(
            "locks are needed for every site",
            where=store.name,
            expected=", ".join(sorted(wanted)),
            found=", ".join(sorted(given)) or "none",
            fix="Give `NoLocks` for a site that is to do without",
        )
