"""Recipients as a configuration names them: one text each, never a secret in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.vault.recipients import AgeRecipient, Recipient, SecretRecipient
from holdfast.errors import ConfigError

FORMS = (
    "age:age1…",
    "file:/path",
    "env:NAME",
    "aws-kms:arn:aws:kms:…:key/…",
    "gcp-kms:projects/…/cryptoKeys/…",
    "azure-key-vault:https://…/keys/…",
)
_IDENTITY = "AGE-SECRET-KEY-1"


def recipient_from_url(
    text: str,
    *,
    environ: Mapping[str, str] | None = None,
    connection: Callable[[str], Connection | None] = lambda _kind: None,
    clients: Mapping[str, Any] | None = None,
) -> Recipient:
    """The recipient a text names.

    ``file:`` and ``env:`` lead to 64 hex digits (a `SecretRecipient`, called by the file's or the variable's name, or
    by what follows a ``#``) or to an age identity, which opens what was wrapped for its ``age1…``.

    Args:
        environ: where ``env:`` looks; by default this process's environment.
        connection: by kind (``aws-kms``, ``gcp-kms``, ``azure-key-vault``), whose login to use; ``None``: the
            environment's own.
        clients: by kind, an SDK client to use.

    Raises:
        ConfigError: it names none, or what it leads to cannot be read. Never holds what it leads to.
    """
    kind, colon, rest = text.partition(":")
    clients = clients or {}
    if kind == "age":
        return _age(rest)
    if kind == "file":
        path, _, name = rest.partition("#")
        return _secret(_read(Path(path)), name or Path(path).name, f"file:{path}")
    if kind == "env":
        variable, _, name = rest.partition("#")
        found = (os.environ if environ is None else environ).get(variable)
        if found is None:
            raise ConfigError(
                "the variable is not set", where=f"env:{variable}", expected="64 hex digits or an identity"
            )
        return _secret(found, name or variable, f"env:{variable}")
    if kind == "aws-kms":
        from holdfast.engine.vault.kms_aws import AwsKmsRecipient

        return AwsKmsRecipient(rest, connection(kind), clients.get(kind))
    if kind == "gcp-kms":
        from holdfast.engine.vault.kms_gcp import GcpKmsRecipient

        return GcpKmsRecipient(rest, connection(kind), clients.get(kind))
    if kind == "azure-key-vault":
        from holdfast.engine.vault.kms_azure import AzureKeyVaultRecipient

        return AzureKeyVaultRecipient(rest, connection(kind), clients.get(kind))
    raise ConfigError(
        "this names no recipient", expected=" or ".join(FORMS), found=f"{kind}:…" if colon else "a text without a kind"
    )


def _age(name: str) -> AgeRecipient:
    import pyrage

    if name.upper().startswith(_IDENTITY):
        raise ConfigError(
            "an age identity does not belong into a configuration",
            where="age:…",
            expected="its recipient, age1…",
            found="a secret key",
            fix="Name the file it lies in, `file:/path`; make a new identity if others saw this one",
        )
    try:
        pyrage.x25519.Recipient.from_str(name)
    except (ValueError, pyrage.RecipientError):
        raise ConfigError(
            "the age recipient cannot be read", where=f"age:{name}", expected="age1…", found="something else"
        ) from None
    return AgeRecipient(name)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the key's file cannot be read",
            where=f"file:{path}",
            expected="64 hex digits or an age identity",
            found=type(error).__name__,
        ) from None


def _secret(text: str, name: str, where: str) -> Recipient:
    if _IDENTITY in text:
        return AgeRecipient.from_identity(text, where)
    try:
        return SecretRecipient(name, bytes.fromhex(text.strip()))
    except ValueError:
        raise ConfigError(
            "this is no key",
            where=where,
            expected="64 hex digits or an age identity",
            found="something else",
            fix="Make one with `openssl rand -hex 32` or `age-keygen`",
        ) from None
