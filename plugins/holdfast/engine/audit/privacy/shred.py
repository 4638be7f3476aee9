"""Shredding: every copy of a subject's key is removed, and what it protected can never be read again.

The other sites come first and the first site last: until then the key is in use, and an interrupted shredding is run
again. Exports, their proofs and their signatures stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from holdfast.engine.audit.errors import NotComplete, Tampered
from holdfast.engine.audit.export import alone, audit_settings, home_of, open_ledger
from holdfast.engine.audit.privacy.certificates import Certificate, deliver, signed
from holdfast.engine.audit.privacy.keys import KEYS, SubjectKeys, folder_of, open_keys, parse_key_object
from holdfast.engine.audit.signing import cosigners
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.pipeline.vaults.locking import locks_at
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.locks import ObjectLocks
from holdfast.errors import ConfigError, HoldfastError, Refused, UnknownName

_OBJECT = re.compile(r"object:([0-9a-f]{64})")


@dataclass(frozen=True)
class Planned:
    """What a shredding would remove.

    Args:
        name: of the key object.
        versions: per site how many versions there are.
        keys: ids of the keys, where they can be read.
    """

    name: str
    versions: dict[str, int]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Shredded:
    """A shredding that is done: ``missing`` are the sites that did not get its certificate yet."""

    certificate: Certificate
    missing: dict[str, HoldfastError]


def subject_keys(runtime: Runtime) -> SubjectKeys:
    """The ledger's keys. Raises ConfigError: its subjects are not protected."""
    found = open_keys(runtime, audit_settings(runtime), opens_only=True)
    if found is None:
        raise ConfigError(
            "the subjects of this ledger are not protected",
            where=str(runtime.topology.path),
            expected="`audit.privacy`",
            found="none",
            fix="docs/how-to/audit.md shows it; what was exported before stays as it is",
        )
    return found


def _locks(runtime: Runtime) -> dict[str, ObjectLocks]:
    settings = audit_settings(runtime)
    return {site: locks_at(runtime, site, below=folder_of(settings)) for site in settings.sites}


def _plan(keys: SubjectKeys, locks: Mapping[str, ObjectLocks], subject: str) -> Planned:
    named = _OBJECT.fullmatch(subject)
    name = f"{KEYS}{named[1]}.json" if named else keys.object_name(subject)
    versions = {site: _versions(site, one, name) for site, one in locks.items()}
    if not any(versions.values()):
        raise UnknownName(
            "no site has a key of this subject: it was shredded, or no protected event names it",
            where=", ".join(store.name for store in keys.stores.values()),
            expected="the subject exactly as its events name it",
            found="no key",
        )
    found = dict.fromkeys(key for store in keys.stores.values() for key in _key_ids(store, name))
    return Planned(name, versions, tuple(found))


def _versions(site: str, locks: ObjectLocks, name: str) -> int:
    try:
        return sum(found.key == name for found in locks.objects(name))
    except ObjectStoreError as error:
        raise Refused(
            "a site is away, so its copy of the key cannot be removed; nothing was removed",
            where=site,
            expected="every site of the ledger",
            found=str(error),
            fix="Run it again when the site is back",
        ) from None


def _key_ids(store: ObjectStore, name: str) -> Iterator[str]:
    try:
        yield parse_key_object(store.get(name), name).key_id
    except (ObjectNotFound, Tampered):
        return  # only older versions, or a damaged one: it is removed all the same


def shred_subject(
    runtime: Runtime, subject: str, *, reason: str, confirm: Callable[[Planned], object] = lambda _planned: None
) -> Shredded:
    """Remove a subject's key at every site, in all versions, and certify it. Later events get a new key.

    Args:
        subject: exactly as its events name it, or ``object:<64 hex>``, a key object's name.
        reason: goes into the certificate, which is public: it must not name the subject.
        confirm: told the plan before anything is removed; what it raises ends it.

    Raises:
        ConfigError: the reason is empty or names the subject.
        UnknownName: no site has a key of it.
        Refused: a site is away, so its copy could not be removed; or an export runs on this machine.
        NotComplete: a site did not remove it. Run it again.
    """
    _check_reason(subject, reason)
    settings, keys, locks = audit_settings(runtime), subject_keys(runtime), _locks(runtime)
    home = home_of(runtime, settings)
    with alone(home):
        head = open_ledger(runtime).head()
        signers = cosigners(runtime)
        planned = _plan(keys, locks, subject)
        confirm(planned)
        removed = _remove(locks, planned)
        certificate = Certificate(
            origin=settings.origin,
            next_seal=head.seal + 1 if head else 0,
            keys=planned.keys,
            sites=removed,
            shredded_at=runtime.clock.now(),
            shredded_by=runtime.holder,
            reason=reason,
        )
        kept = home / certificate.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(signed(certificate, signers))
        return Shredded(certificate, deliver(keys.stores, home))


def _check_reason(subject: str, reason: str) -> None:
    if not reason.strip() or "\n" in reason or (subject and subject.casefold() in reason.casefold()):
        raise ConfigError(
            "the reason goes into a public certificate",
            where="--reason",
            expected="one line that does not name the subject, e.g. the request's number",
            found="the subject" if reason.strip() else "nothing",
        )


def _remove(locks: Mapping[str, ObjectLocks], planned: Planned) -> dict[str, int]:
    first = next(iter(locks))
    removed = dict.fromkeys(locks, 0)
    for site in (*list(locks)[1:], first):
        removed[site] += _remove_at(site, locks[site], planned.name)
    # An export of another machine may have copied it meanwhile; with the first site's gone it cannot any more.
    for site in list(locks)[1:]:
        removed[site] += _remove_at(site, locks[site], planned.name)
    return removed


def _remove_at(site: str, locks: ObjectLocks, name: str) -> int:
    try:
        count = sum(found.key == name for found in locks.objects(name))
        if count:
            locks.remove(name)
        left = sum(found.key == name for found in locks.objects(name))
    except ObjectNotFound:
        return 0
    except ObjectStoreError as error:
        raise _incomplete(site, str(error)) from None
    if left:
        raise _incomplete(site, f"{left} versions")
    return count


def _incomplete(site: str, found: str) -> NotComplete:
    return NotComplete(
        "the shredding is not complete: a site still has the key, or may have it",
        where=site,
        expected="no version of it",
        found=found,
        fix="Run it again when the site is back",
    )
