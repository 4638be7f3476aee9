"""Key objects: one role's secrets, encrypted under a key of their own that is wrapped for several recipients.

Each is written once, in two copies. To change who can open a vault, a new one is written and the log names it; nothing
else is encrypted anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Literal

from holdfast.clock import Clock
from holdfast.engine.keyservice.errors import KeyServiceRefused, KeyServiceUnavailable
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault import layout
from holdfast.engine.vault.append import append, refuse_existing
from holdfast.engine.vault.crypto import seal, unseal
from holdfast.engine.vault.entries import Base64, Form, Id, Text, read_canonical
from holdfast.engine.vault.errors import (
    Damaged,
    HistoryDamaged,
    NotEntitled,
    WrongKey,
)
from holdfast.engine.vault.history import History, load_history
from holdfast.engine.vault.keys import Keys
from holdfast.engine.vault.log import LogEntry
from holdfast.engine.vault.objects import create_new
from holdfast.engine.vault.recipients import Recipient
from holdfast.engine.vault.secrets import ROLES, NewSecrets, Secrets, b64, public_of, unb64, verifier_of
from holdfast.engine.vault.vault import Vault, init_vault
from holdfast.errors import ConfigError, HoldfastError

FORMAT = "holdfast.vault.keys/1"
KIND = b"K"


class WrappedForm(Form):
    """A key object's key, encrypted for one recipient."""

    kind: Text
    key: Text
    wrapped: Base64


class KeysetForm(Form):
    """A key object."""

    format: Literal["holdfast.vault.keys/1"]
    repository: Id
    role: Literal["writer", "reader", "admin"]
    keyset: Id
    recipients: list[WrappedForm]
    sealed: Base64


def write_keyset(
    store: ObjectStore,
    secrets: Secrets,
    recipients: Sequence[Recipient],
    protect: Callable[[str], None] = lambda _key: None,
) -> str:
    """Write a role's key objects. Returns their id.

    Args:
        protect: told the key of each object that was written, to lock it.

    Raises:
        ConfigError: nobody could open it.
    """
    if not recipients:
        raise ConfigError(
            "a key set nobody can open", where=f"{store.name}: {secrets.role}", expected="at least one recipient"
        )
    keyset_id, key = os.urandom(16).hex(), os.urandom(32)
    context = _context(secrets.repository, secrets.role, keyset_id)
    document = canonical(
        {
            "format": FORMAT,
            "repository": secrets.repository.hex(),
            "role": secrets.role,
            "keyset": keyset_id,
            "recipients": [
                {"kind": one.kind, "key": one.key_name, "wrapped": b64(one.wrap(key, context))} for one in recipients
            ],
            "sealed": b64(seal(key, KIND, secrets.repository, canonical(secrets.to_dict()))),
        }
    )
    name = keyset_name(document)
    for copy in layout.KEY_COPIES:
        create_new(store, layout.keyset_key(name, copy), document, content_type="application/json")
        protect(layout.keyset_key(name, copy))
    return name


def keyset_name(document: bytes) -> str:
    """What a key object is called: its digest. So the log, which names it, vouches for its bytes."""
    return hashlib.sha256(document).hexdigest()


def _context(repository: bytes, role: str, keyset_id: str) -> dict[str, str]:
    return {"holdfast-repository": repository.hex(), "holdfast-role": role, "holdfast-keyset": keyset_id}


def unlock(store: ObjectStore, role: str, recipients: Iterable[Recipient], *, repository: str | None = None) -> Secrets:
    """Open a role's key set with whichever recipient can: one that refuses or does not answer gives way to the next.

    Args:
        repository: id of the one it must be, 32 hex digits. Without it whoever can write to the store can put another
            repository in its place, sealed for the same recipients.

    Raises:
        ConfigError: another repository lies there.
        NoVault, HistoryDamaged: the log names no key set.
        WrongKey: none of these opens it.
        KeyServiceUnavailable: none of these opens it, and one that may did not answer.
        Damaged: both copies are gone or changed.
    """
    if role not in ROLES:
        raise ConfigError("unknown role", expected=", ".join(ROLES), found=repr(role))
    history = _history_for_keys(store)
    if repository is not None and history.repository.hex() != repository:
        raise ConfigError(
            "another repository lies here than the one that was named",
            where=store.name,
            expected=repository,
            found=history.repository.hex(),
            fix="Somebody put it there, or the name is another vault's; nothing was unlocked",
        )
    keyset_id = history.keys.keysets[role]
    errors: list[Damaged] = []
    recipients = tuple(recipients)
    for copy in layout.KEY_COPIES:
        where = f"{store.name}: {layout.keyset_key(keyset_id, copy)}"
        try:
            data = store.get(layout.keyset_key(keyset_id, copy))
            return _open(data, role, history.repository, keyset_id, recipients, where)
        except ObjectNotFound:
            errors.append(Damaged("a key object is missing", where=where))
        except Damaged as error:
            errors.append(error)
    raise errors[0]


def _history_for_keys(store: ObjectStore) -> History:
    """What names the key sets: also of a log that lost entries, so that what is left can be read."""
    try:
        return load_history(store)
    except HistoryDamaged:
        return load_history(store, hinted=False, damage=[])


def named_recipients(store: ObjectStore, role: str) -> tuple[tuple[str, str], ...]:
    """Kind and name of each key that opens a role's key set; none of them is needed for that.

    Raises:
        NoVault, HistoryDamaged: the log names no key set.
        Damaged: both copies are gone or changed.
    """
    name = _history_for_keys(store).keys.keysets[role]
    for copy in layout.KEY_COPIES:
        with suppress(ObjectNotFound, ValueError):
            data = store.get(layout.keyset_key(name, copy))
            if keyset_name(data) == name:
                return tuple((one.kind, one.key) for one in KeysetForm.model_validate(read_canonical(data)).recipients)
    raise Damaged(
        "no key object of the role can be read",
        where=f"{store.name}: {layout.keyset_key(name, layout.KEY_COPIES[0])}",
    )


def _parsed(data: bytes, role: str, repository: bytes, where: str) -> KeysetForm:
    """Raises Damaged."""
    try:
        found = KeysetForm.model_validate(read_canonical(data))
        if found.role != role or found.repository != repository.hex():
            raise ValueError(f"role {found.role}, repository {found.repository}")
    except ValueError as error:
        raise Damaged(
            "the key object cannot be read", where=where, expected=f"{FORMAT} of {role}", found=str(error)[:300]
        ) from None
    return found


def _open(data: bytes, role: str, repository: bytes, name: str, recipients: Sequence[Recipient], where: str) -> Secrets:
    if keyset_name(data) != name:
        raise Damaged("a key object was changed", where=where, expected=f"sha256 {name}", found=keyset_name(data))
    found = _parsed(data, role, repository, where)
    context = _context(repository, role, found.keyset)
    failed: list[HoldfastError] = []
    for recipient in recipients:
        for one in found.recipients:
            if (one.kind, one.key) != (recipient.kind, recipient.key_name):
                continue
            try:
                key = recipient.unwrap(unb64(one.wrapped), context)
                plain = unseal(key, KIND, repository, unb64(found.sealed), where)
            except (WrongKey, KeyServiceRefused, KeyServiceUnavailable) as error:
                failed.append(error)
                continue
            try:
                return Secrets.from_dict(read_canonical(plain), role=role, repository=repository)
            except ValueError as error:
                raise Damaged("the secrets cannot be read", where=where, found=str(error)) from None
    waiting = any(isinstance(error, KeyServiceUnavailable) for error in failed)
    raise (KeyServiceUnavailable if waiting else WrongKey)(
        f"none of the keys at hand opens the {role}'s key set",
        where=where,
        expected=", ".join(f"{one.kind} {one.key}" for one in found.recipients),
        found="; ".join(str(error) for error in failed)
        or ", ".join(f"{one.kind} {one.key_name}" for one in recipients)
        or "no key",
        fix="Use one of the recipients it was sealed for, e.g. the offline age identity",
    )


def foreign_keysets(store: ObjectStore, history: History, before: datetime) -> Iterator[str]:
    """Keys of key objects of another repository, written before a time: somebody failed to make one where this is."""
    named = {layout.keyset_key(name, copy) for name in history.keys.keysets.values() for copy in layout.KEY_COPIES}
    for info in list(store.list(layout.KEYS)):
        if info.key in named or info.modified_at >= before:
            continue
        with suppress(ValueError, ObjectNotFound):
            if KeysetForm.model_validate(read_canonical(store.get(info.key))).repository != history.repository.hex():
                yield info.key


def make_vault(
    name: str,
    store: ObjectStore,
    recipients: Mapping[str, Sequence[Recipient]],
    *,
    witnesses: Mapping[str, ObjectStore] | None = None,
    clock: Clock | None = None,
    protect: Callable[[str], None] = lambda _key: None,
    protect_witness: Callable[[str, str], None] = lambda _site, _key: None,
) -> tuple[Vault, NewSecrets]:
    """Make a repository with its key objects.

    Args:
        recipients: by role (``writer``, ``reader``, ``admin``), who can open its key set.
        protect, protect_witness: see `Vault`.

    Raises:
        VaultExists: there is one. Where somebody made it in this very moment, the key objects just written name another
            repository and are nobody's; a collection removes them.
    """
    refuse_existing(store)
    secrets = NewSecrets.make()
    keysets = {role: write_keyset(store, getattr(secrets, role), recipients[role], protect) for role in ROLES}
    vault = init_vault(
        name,
        store,
        secrets,
        keysets=keysets,
        witnesses=witnesses,
        clock=clock,
        protect=protect,
        protect_witness=protect_witness,
    )
    return vault, secrets


def rotate_keys(
    vault: Vault,
    recipients: Mapping[str, Sequence[Recipient]],
    *,
    writer: Secrets | None = None,
    reader: Secrets | None = None,
    new_generation: bool = False,
    new_signer: bool = False,
    new_admin: bool = False,
) -> tuple[Vault, dict[str, Secrets]]:
    """Change who can open the vault, and what new packs are sealed to, without encrypting anything anew.

    Args:
        vault: opened by an administrator.
        recipients: by role, who can open the new key set; a role left out keeps its own.
        writer, reader: those roles' secrets, where their key sets are written anew.
        new_generation: make a new key pair for content; older packs keep theirs. Needs the reader's secrets.
        new_signer: make a new signing key for the writer, whose old one signs no further entry. Needs the writer's.
        new_admin: make a new signing key for the administrator; those there were sign no further entry.

    Returns:
        The vault, opened with the new keys where they are an administrator's, and the new secrets of the roles that
        were written.

    Raises:
        NotEntitled: a role's secrets are needed and were not given.
    """
    vault.refuse_alarm()
    keys, admin = vault.history.keys, vault.secrets
    given = {"writer": writer, "reader": reader, "admin": admin}
    public_keys, signers = dict(keys.recipients), dict(keys.signers)
    if new_generation:
        reader = _needed(reader, "reader")
        generation, private = keys.generation + 1, os.urandom(32)
        given["reader"] = Secrets(
            "reader", reader.repository, reader.root, private={**reader.private, generation: private}
        )
        public_keys[generation] = public_of(private)
    if new_signer:
        old = _needed(writer, "writer")
        signing = os.urandom(32)
        given["writer"] = Secrets("writer", old.repository, old.root, signing=signing)
        signers = {key: role for key, role in signers.items() if role != "writer"}
        signers[verifier_of(signing)] = "writer"
    if new_admin:
        signing = os.urandom(32)
        given["admin"] = Secrets("admin", admin.repository, admin.root, signing=signing)
        signers = {key: role for key, role in signers.items() if role != "admin"}
        signers[verifier_of(signing)] = "admin"
    renewed = {"reader": new_generation, "writer": new_signer, "admin": new_admin}
    changed = {*recipients, *(role for role, is_new in renewed.items() if is_new)}
    keysets, made = dict(keys.keysets), {}
    for role in sorted(changed):
        if role not in recipients:
            raise ConfigError("a new key needs recipients", where=role, expected="who can open it", found="nobody")
        made[role] = _needed(given[role], role)
        keysets[role] = write_keyset(vault.store, made[role], recipients[role], vault.protect)
    new = Keys(public_keys, signers, keysets).to_public()
    history = vault.history

    def seen(entry: LogEntry) -> None:
        nonlocal history
        history = history.after(entry)
        if entry.kind == "keys":
            raise ConfigError("the keys were changed by somebody else meanwhile", where=vault.name, fix="Run it again")

    entry = append(
        vault.store,
        admin,
        "keys",
        clock=vault.clock,
        tip=history.tip,
        signers=keys.signers,
        describe=lambda _tip: ({"keys": new}, None),
        seen=seen,
    )
    return replace(vault.at(history), secrets=made.get("admin", admin)).commit(entry), made


def _needed(secrets: Secrets | None, role: str) -> Secrets:
    if secrets is None:
        raise NotEntitled(f"the {role}'s secrets are needed to write its key set", expected=role, found="not given")
    return secrets
