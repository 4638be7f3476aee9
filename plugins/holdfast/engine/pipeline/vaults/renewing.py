"""Locks of everything a vault holds, at every site that holds some of it: looked at, and renewed in time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from holdfast.engine.pipeline.vaults.locking import lock_policy, vault_locks, witness_locks
from holdfast.engine.pipeline.vaults.opening import opened, places_of, store_below
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.collect import store_now
from holdfast.engine.vault.locks import LockPolicy, LockReport, RenewReport, lock_report, renew_locks
from holdfast.engine.vault.vault import Vault
from holdfast.errors import ConfigError, HoldfastError


@dataclass
class SiteLocks:
    """The locks at one site that holds a vault, a mirror of it, or its shares.

    Args:
        renewed: what a renewal did; ``None``: none was asked for, or it was not possible.
        report: what was found (after it); ``None``: it could not be told.
        errors: why not.
    """

    site: str
    renewed: RenewReport | None = None
    report: LockReport | None = None
    errors: tuple[HoldfastError, ...] = ()

    @property
    def is_good(self) -> bool:
        """Everything that counts here is locked. What is not known is not good."""
        return self.report is not None and self.report.is_good and not self.sentences()

    @property
    def away(self) -> tuple[HoldfastError, ...]:
        """Who did not answer, where nothing else is wrong: trying again may help."""
        if not all(error.transient for error in self.errors):
            return ()
        if self.report is None:
            return self.errors
        return (*self.errors, *self.report.away.values()) if self.report.is_good_where_told else ()

    def sentences(self) -> list[str]:
        """What is not good, for people."""
        said = [str(error) for error in self.errors]
        said += self.renewed.failed if self.renewed is not None else []
        said += self.report.sentences() if self.report is not None else []
        return [one if self.site in one else f"{self.site}: {one}" for one in said]

    def to_summary(self) -> dict[str, Any]:
        renewed = self.renewed
        return {
            "good": self.is_good,
            "counted": {} if self.report is None else dict(self.report.counted),
            "renewed": None if renewed is None else {"extended": dict(renewed.extended), "enough": renewed.enough},
            "problems": self.sentences(),
        }


def looked_at_locks(runtime: Runtime, vault: str, *, renew: bool = False) -> list[SiteLocks]:
    """Look at the lock of every object that counts: at the vault, its mirrors, its witnesses, all sites of its shares.

    One site that does not answer, or keeps no locks, does not keep the others from being renewed. A look writes
    nothing, so it goes by this machine's clock: to ask a store for its time is to write.

    Args:
        renew: lock what counts for its whole period again first, where too little is left.

    Raises:
        ConfigError: the topology does not ask for locks.
    """
    policy = lock_policy(runtime, vault)
    if policy is None:
        raise ConfigError(
            "the topology asks for no locks",
            where=f"vaults.{vault}.lock_days",
            expected="days per retention tier",
            found="none",
            fix="docs/reference/vault-immutability.md says what the bucket needs",
        )
    return [_at_site(runtime, vault, site, policy, renew=renew) for site in places_of(runtime, vault)]


def _at_site(runtime: Runtime, vault: str, site: str, policy: LockPolicy, *, renew: bool) -> SiteLocks:
    done = SiteLocks(site)
    try:
        found = _opened_at(runtime, vault, site)
        locks = vault_locks(runtime, vault, site)
        of_witnesses = witness_locks(runtime, vault) if found.witnesses else {}
        now = store_now(store_below(runtime, vault, site)) if renew else runtime.clock.now()
    except HoldfastError as error:
        return replace(done, errors=(error,))
    if renew:
        try:
            done.renewed = renew_locks(found, locks, policy, witness_locks=of_witnesses, now=now)
        except HoldfastError as error:
            done.errors = (error,)
    try:
        done.report = lock_report(found, locks, policy, witness_locks=of_witnesses, now=now)
    except HoldfastError as error:
        done.errors = (*done.errors, error)
    return done


def _opened_at(runtime: Runtime, vault: str, site: str) -> Vault:
    """The vault as this site has it. Its witnesses are looked at once, with the vault's own site."""
    settings = runtime.topology.vault(vault)
    found = opened(runtime, vault, "writer", site=site if site in settings.mirrors else None)
    return found if site == settings.site else replace(found, witnesses={})
