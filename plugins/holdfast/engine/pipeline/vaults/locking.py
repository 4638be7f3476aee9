"""Locks of a vault's objects, as the topology's `lock_days` want them, at its site, its mirrors and its witnesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore.errors import NotSupported, ObjectStoreError
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
    """What is told each key that was written to a vault's store. Raises NotSupported: the bucket keeps no locks.

    Args:
        site: where the store is; by default the vault's own.
    """
    policy = lock_policy(runtime, name)
    if policy is None:
        return _nothing
    settings = runtime.topology.vault(name)
    if isinstance(store, ErasureStore) and settings.shares is not None:
        return protect_everywhere(store, {one: _protects(runtime, name, one, policy) for one in settings.shares.sites})
    return _protects(runtime, name, site or settings.site, policy)


def _protects(runtime: Runtime, name: str, site: str, policy: LockPolicy) -> Callable[[str], None]:
    """The protector of one site; where that does not answer, made only once something is written there."""

    @cache
    def made() -> Protector:
        return Protector(vault_locks(runtime, name, site), policy)

    try:
        return made()
    except NotSupported:
        raise
    except ObjectStoreError:
        return lambda key: made()(key)


def vault_locks(runtime: Runtime, name: str, site: str) -> ObjectLocks:
    """The locks of what a vault holds at a site."""
    return locks_at(runtime, site, below=runtime.topology.vault(name).prefix or f"vault/{name}")


def remover(
    runtime: Runtime, name: str, store: ObjectStore, *, site: str | None = None
) -> Callable[[str], None] | None:
    """What removes an object of a locked vault for good; ``None``: the store's own delete does.

    Args:
        site: where the store is; by default the vault's own.
    """
    if lock_policy(runtime, name) is None:
        return None
    settings = runtime.topology.vault(name)
    if isinstance(store, ErasureStore) and settings.shares is not None:
        return remove_everywhere(store, {one: vault_locks(runtime, name, one).remove for one in settings.shares.sites})
    return vault_locks(runtime, name, site or settings.site).remove


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
