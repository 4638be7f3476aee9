"""From a vault's name to an open vault: its store, its witnesses, the keys of a role."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.pipeline.vaults.locking import protector, witness_protector
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.recipient_urls import recipient_from_url
from holdfast.engine.vault.recipients import Recipient
from holdfast.engine.vault.secrets import ROLES, Secrets
from holdfast.engine.vault.vault import Vault, open_vault
from holdfast.errors import ConfigError


def prefix_of(runtime: Runtime, name: str) -> str:
    """The folder of a vault in its sites' buckets."""
    return runtime.topology.vault(name).prefix or f"vault/{name}"


def vault_store(runtime: Runtime, name: str, *, site: str | None = None) -> ObjectStore:
    """Where a vault lies.

    Args:
        site: one of its mirrors; by default its own site.

    Raises:
        UnknownName: no such vault.
        ConfigError: it has no mirror there.
    """
    settings = runtime.topology.vault(name)
    here = site or settings.site
    if here not in (settings.site, *settings.mirrors):
        raise ConfigError(
            "the vault does not lie at this site",
            where=f"vault {name}",
            expected=f"one of {', '.join((settings.site, *settings.mirrors))}",
            found=repr(site),
        )
    if settings.shares is not None:
        sites = [(one, store_below(runtime, name, one)) for one in settings.shares.sites]
        return ErasureStore(sites, needed=settings.shares.needed, clock=runtime.clock)
    return store_below(runtime, name, here)


def store_below(runtime: Runtime, name: str, site: str) -> ObjectStore:
    """What one site holds of a vault: all of it, or of one with shares that site's."""
    return PrefixedStore(runtime.store(site, flow=f"vault-{name}"), prefix_of(runtime, name))


def places_of(runtime: Runtime, name: str) -> tuple[str, ...]:
    """All sites that hold content of a vault."""
    return runtime.topology.vault(name).places


def witness_stores(runtime: Runtime, name: str) -> dict[str, ObjectStore]:
    """The stores that witness a vault's entries, by site."""
    return {site: runtime.store(site) for site in runtime.topology.vault(name).witnesses}


def recipients_of(runtime: Runtime, name: str, role: str) -> list[Recipient]:
    """Who can open a role's key set, as the topology says. Raises ConfigError."""
    return [
        recipient_from(runtime, text, f"vaults.{name}.keys.{role}")
        for text in getattr(runtime.topology.vault(name).keys, role)
    ]


def recipient_from(runtime: Runtime, text: str, where: str) -> Recipient:
    """A recipient by what the topology calls it; a file lies beside the topology. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    if kind == "file":
        text = f"file:{runtime.topology.beside(rest)}"
    try:
        return recipient_from_url(text, environ=runtime.environ)
    except ConfigError as error:
        raise ConfigError(
            error.what,
            where=f"{where}: {error.where or kind}",
            expected=error.expected,
            found=error.found,
            fix=error.fix,
        ) from None


def unlocked(runtime: Runtime, name: str, role: str, *, store: ObjectStore | None = None) -> Secrets:
    """The secrets of a role. Raises WrongKey, NoVault, Damaged, ConfigError."""
    return unlock(
        store or vault_store(runtime, name),
        role,
        recipients_of(runtime, name, role),
        repository=runtime.topology.vault(name).repository,
    )


def opened(runtime: Runtime, name: str, role: str, *, site: str | None = None) -> Vault:
    """A vault opened in a role.

    Args:
        site: a mirror to read from, e.g. because the vault's own site is gone.

    Raises:
        UnknownName, ConfigError: see `vault_store`.
        NoVault, HistoryDamaged, WrongKey: it cannot be opened.
    """
    store = vault_store(runtime, name, site=site)
    return open_vault(
        name,
        store,
        unlocked(runtime, name, role, store=store),
        witnesses=witness_stores(runtime, name),
        clock=runtime.clock,
        protect=protector(runtime, name, store, site=site),
        protect_witness=witness_protector(runtime, name),
    )


def made(runtime: Runtime, name: str) -> Vault:
    """Make a vault where the topology says. Raises VaultExists, ConfigError."""
    recipients: Mapping[str, list[Recipient]] = {role: recipients_of(runtime, name, role) for role in ROLES}
    store = vault_store(runtime, name)
    vault, _ = make_vault(
        name,
        store,
        recipients,
        witnesses=witness_stores(runtime, name),
        clock=runtime.clock,
        protect=protector(runtime, name, store),
        protect_witness=witness_protector(runtime, name),
    )
    return vault


def vaults_of(runtime: Runtime, group: str, vault: str | None = None) -> tuple[str, ...]:
    """The vault that is named, or all of a group's.

    Raises:
        UnknownName: no such group or vault.
        ConfigError: the group has none, or the one that is named is not one of its own.
    """
    settings = runtime.topology.group(group)
    if vault is not None:
        require_own(runtime, group, vault)
        return (vault,)
    if not settings.vaults:
        raise ConfigError(
            "the group has no vault",
            where=f"groups.{group}.vaults",
            expected="at least one name of `vaults`",
            found="none",
            fix="Describe one in the topology: docs/how-to/back-up.md",
        )
    return settings.vaults


def require_own(runtime: Runtime, group: str, vault: str) -> None:
    """A group's data goes only into its own vaults, and what is published as its data comes only out of them.

    Other people may read another vault, or write to it; and nothing asks whether the group's backups there are fresh.

    Raises:
        UnknownName: no such group or vault.
        ConfigError: it is none of the group's.
    """
    runtime.topology.vault(vault)
    own = runtime.topology.group(group).vaults
    if vault not in own:
        raise ConfigError(
            "the vault is none of the group's",
            where=f"groups.{group}.vaults",
            expected=f"one of {', '.join(own) or '(none)'}",
            found=vault,
            fix="Name one of them, or add it there; any vault's backup can be restored to a folder or a prefix",
        )
