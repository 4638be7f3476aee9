"""Airflow's Fernet and JWT keys, sealed for somebody who cannot open the backup they belong to.

Whoever reads a backup of the database finds passwords encrypted; with the Fernet key beside them, under the same key,
they would be plain. So the keys are sealed for recipients of their own, and one that opens the vault is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from holdfast.engine.keyservice.errors import KeyServiceRefused, KeyServiceUnavailable
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault.airflow_state.command import AirflowCommand
from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.errors import Damaged, WrongKey
from holdfast.engine.vault.keysets import named_recipients, unlock
from holdfast.engine.vault.recipients import Recipient, SecretRecipient
from holdfast.engine.vault.secrets import b64, unb64
from holdfast.errors import ConfigError, Refused

FORMAT = "holdfast.airflow-keys/1"
_KIND = b"A"
_OPTIONS = {
    "fernet_key": ("core", "fernet_key"),
    "api_secret_key": ("api", "secret_key"),
    "jwt_secret": ("api_auth", "jwt_secret"),
    "jwt_private_key": ("api_auth", "jwt_private_key_path"),
}


@dataclass(frozen=True, repr=False)
class AirflowKeys:
    """What a database backup lacks to be of use.

    Args:
        fernet_key: ``[core] fernet_key``; several, the newest first, separated by commas.
        api_secret_key: ``[api] secret_key``.
        jwt_secret: ``[api_auth] jwt_secret``.
        jwt_private_key: the content of ``[api_auth] jwt_private_key_path``.
    """

    fernet_key: str | None = None
    api_secret_key: str | None = None
    jwt_secret: str | None = None
    jwt_private_key: str | None = None

    def __repr__(self) -> str:
        return f"AirflowKeys({', '.join(self.names) or 'none'})"

    @property
    def names(self) -> tuple[str, ...]:
        """Which there are."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets themselves, to look for where they must not be."""
        each = (part for name in self.names for part in (getattr(self, name), *getattr(self, name).split(",")))
        return tuple(dict.fromkeys(part.strip() for part in each if part.strip()))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AirflowKeys:
        """From ``AIRFLOW__…`` variables. Raises ConfigError: the private key's file cannot be read."""
        found = {name: environ.get(f"AIRFLOW__{s.upper()}__{o.upper()}") or None for name, (s, o) in _OPTIONS.items()}
        return cls._from_options(found)

    @classmethod
    def from_command(cls, command: AirflowCommand) -> AirflowKeys:
        """As Airflow itself reads them, from its file, a command or a secrets backend. Raises CommandFailed."""
        return cls._from_options({name: command.option(*option) for name, option in _OPTIONS.items()})

    @classmethod
    def _from_options(cls, found: dict[str, str | None]) -> AirflowKeys:
        path = found["jwt_private_key"]
        if path:
            try:
                found["jwt_private_key"] = Path(path).read_text(encoding="ascii")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    "the private key that signs tokens cannot be read",
                    where=path,
                    expected="a PEM file",
                    found=type(error).__name__,
                ) from None
        return cls(**found)


@dataclass(frozen=True)
class Escrow:
    """Sealed keys.

    Args:
        data: fit to lie anywhere.
        keys: the same, open; used to check that they open what is backed up.
        recipients: kind and name of whoever can open it.
    """

    data: bytes = field(repr=False)
    keys: AirflowKeys
    recipients: tuple[tuple[str, str], ...]


def escrow_keys(keys: AirflowKeys, recipients: Sequence[Recipient], *, apart_from: Sequence[ObjectStore]) -> Escrow:
    """Seal Airflow's keys for recipients that open none of the vaults its database is backed up to.

    Args:
        recipients: who can open them; each alone.
        apart_from: the stores of those vaults.

    Raises:
        ConfigError: there are no recipients or no keys.
        Refused: a recipient also opens the content of one of the vaults.
    """
    if not recipients or not keys.names:
        raise ConfigError(
            "there is nothing to put in escrow" if recipients else "keys in escrow nobody could open",
            where="Airflow's keys",
            expected="at least one key and one recipient",
            found=f"keys: {', '.join(keys.names) or 'none'}; recipients: {len(recipients)}",
        )
    for store in apart_from:
        for recipient in recipients:
            _refuse_same(store, recipient)
    escrow_id, key = os.urandom(16), os.urandom(32)
    names = tuple((one.kind, one.key_name) for one in recipients)
    document = canonical(
        {
            "format": FORMAT,
            "escrow": escrow_id.hex(),
            "keys": list(keys.names),
            "recipients": [
                {"kind": one.kind, "key": one.key_name, "wrapped": b64(one.wrap(key, _context(escrow_id)))}
                for one in recipients
            ],
            "sealed": b64(seal(key, _KIND, escrow_id, canonical({name: getattr(keys, name) for name in keys.names}))),
        }
    )
    return Escrow(document, keys, names)


def open_escrow(data: bytes, recipients: Iterable[Recipient], where: str = "the escrow") -> AirflowKeys:
    """Open sealed keys with whichever recipient can. Raises WrongKey, Damaged."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
        escrow_id, sealed = bytes.fromhex(found["escrow"]), unb64(found["sealed"])
        wrapped = {(str(one["kind"]), str(one["key"])): unb64(one["wrapped"]) for one in found["recipients"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("the escrow cannot be read", where=where, expected=FORMAT, found=repr(error)) from None
    tried: list[str] = []
    for recipient in recipients:
        data_key = wrapped.get((recipient.kind, recipient.key_name))
        if data_key is None:
            continue
        try:
            key = recipient.unwrap(data_key, _context(escrow_id))
        except (WrongKey, KeyServiceRefused, KeyServiceUnavailable) as error:
            tried.append(str(error))
            continue
        return AirflowKeys(**json.loads(unseal(key, _KIND, escrow_id, sealed, where)))
    raise WrongKey(
        "none of the keys at hand opens the escrow",
        where=where,
        expected=", ".join(f"{kind} {name}" for kind, name in wrapped),
        found="; ".join(tried) or "no key of these",
    )


def _context(escrow_id: bytes) -> dict[str, str]:
    return {"holdfast-escrow": escrow_id.hex()}


def _refuse_same(store: ObjectStore, recipient: Recipient) -> None:
    readers = named_recipients(store, "reader")
    same = (recipient.kind, recipient.key_name) in readers
    if isinstance(recipient, SecretRecipient):
        # Its name is only what somebody called it, so the key itself is tried.
        same = same or any(kind == "secret" and _opens(store, recipient, name) for kind, name in readers)
    if same:
        raise Refused(
            "this recipient also opens the backups of the database",
            where=f"{recipient.kind} {recipient.key_name}",
            expected=f"a key that is no reader's key of {store.name}",
            found="the same key",
            fix="Put Airflow's keys in escrow for another person or service: a key of their own, kept elsewhere",
        )


def _opens(store: ObjectStore, recipient: SecretRecipient, name: str) -> bool:
    try:
        unlock(store, "reader", [replace(recipient, key_name=name)])
    except WrongKey:
        return False
    return True
