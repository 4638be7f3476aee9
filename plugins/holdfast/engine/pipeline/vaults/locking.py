"""Locks of a vault's objects, as the topology's `lock_days` want them, at its site, its mirrors and its witnesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_locks import protect_everywhere, remove_everywhere
from holdfast.engine.vault.locks import LockMode, LockPolicy, NoLocks, ObjectLocks, Protector, open_locks

_MODES: Mapping[str, LockMode] = {"compliance": LockMode.COMPLIANCE, "governance": LockMode.GOVERNANCE}


def lock_policy(runtime: Runtime, name: str) -> LockPolicy | None:
    """How long a vault's objects are locked; ``None``: they are not."""
    settings = runtime.topology.vault(name)
    if not settings.lock_days:
        return None
    tiers = {str(tier): timedelta(days=days) for tier, days in settings.lock_days.items()}
    return LockPolicy(tiers, mode=_MODES[settings.lock_mode])


def locks_at(runtime: Runtime, site: str, *, below: str = "") -> ObjectLocks:
    """The locks of a site's bucket.

    Args:
        below: keys are relative to this folder.

    Raises:
        UnknownName, ConfigError.
    """
    settings = runtime.topology.site(site)
    prefix = "/".join(filter(None, (settings.prefix, below)))
    inside = settings.model_copy(update={"prefix": prefix})
    store = PrefixedStore(runtime.store(site), below) if below else runtime.store(site)
    if settings.cloud is Cloud.LOCAL:
        return NoLocks(store, "a local folder keeps no locks")
    return open_locks(site, inside, runtime.connections.get(settings.connection), store)


def protector(runtime: Runtime, name: str, store: ObjectStore, *, site: str | None = None) -> Callable[[str], None]:
    """What is told each key that was written to a vault's store. Raises NotSupported: the bucket keeps no locks."""
    policy = lock_policy(runtime, name)
    if policy is None:
        return _nothing
    settings = runtime.topology.vault(name)
    below = settings.prefix or f"vault/{name}"
    if isinstance(store, ErasureStore) and settings.shares is not None:
        each = {one: Protector(locks_at(runtime, one, below=below), policy) for one in settings.shares.sites}
        return protect_everywhere(store, each)
    return Protector(locks_at(runtime, site or settings.site, below=below), policy)


def remover(runtime: Runtime, name: str, store: ObjectStore) -> Callable[[str], None] | None:
    """What removes an object of a locked vault for good; ``None``: the store's own delete does."""
    if lock_policy(runtime, name) is None:
        return None
    settings = runtime.topology.vault(name)
    below = settings.prefix or f"vault/{name}"
    if isinstance(store, ErasureStore) and settings.shares is not None:
        each = {one: locks_at(runtime, one, below=below).remove for one in settings.shares.sites}
        return remove_everywhere(store, each)
    return locks_at(runtime, settings.site, below=below).remove


def witness_locks(runtime: Runtime, name: str) -> dict[str, ObjectLocks]:
    """The locks of the witnesses' buckets, by site."""
    return {site: locks_at(runtime, site) for site in runtime.topology.vault(name).witnesses}


def witness_protector(runtime: Runtime, name: str) -> Callable[[str, str], None]:
    """What is told each site and key of a witness that was written."""
    policy = lock_policy(runtime, name)
    if policy is None:
        return lambda _site, _key: None

    @cache
    def of_site(site: str) -> Protector:
        return Protector(locks_at(runtime, site), policy)

    return lambda site, key: of_site(site)(key)


def _nothing(_key: str) -> None:
    return None
