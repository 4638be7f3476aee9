"""Cosigners as a configuration names them: one text each, never a secret in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.engine.audit.tlog.keys import Signer, is_key_name
from holdfast.engine.config import Connection
from holdfast.errors import ConfigError

FORMS = (
    "aws-kms:arn:aws:kms:…:key/…",
    "gcp-kms:projects/…/cryptoKeyVersions/…",
    "azure-key-vault:https://…/keys/…/VERSION",
    "file:/path.pem",
)


def cosigner_from_url(
    text: str,
    origin: str,
    *,
    connection: Callable[[str], Connection | None] = lambda _kind: None,
    clients: Mapping[str, Any] | None = None,
) -> Signer:
    """The cosigner a text names; nothing is asked of its service yet.

    In a note it is called by the log's origin and its kind, e.g. ``example.com/holdfast/aws-kms``, or by what follows
    a ``#``. Several of one kind are told apart by their ids.

    Args:
        origin: the log's.
        connection: by kind (``aws-kms``, ``gcp-kms``, ``azure-key-vault``), whose login to use; ``None``: the
            environment's own.
        clients: by kind, an SDK client to use.

    Raises:
        ConfigError: it names none, or what it leads to cannot be read.
    """
    kind, colon, rest = text.partition(":")
    rest, _, given = rest.partition("#")
    name = given or f"{origin}/{kind}"
    if not is_key_name(name):
        raise ConfigError("a key cannot be called so", where=f"{kind}:{rest}", found=repr(name))
    client = (clients or {}).get(kind)
    if kind == "aws-kms":
        from holdfast.engine.audit.tlog.cosigners_aws import AwsKmsCosigner

        return AwsKmsCosigner(rest, connection(kind), client, name=name)
    if kind == "gcp-kms":
        from holdfast.engine.audit.tlog.cosigners_gcp import GcpKmsCosigner

        return GcpKmsCosigner(rest, connection(kind), client, name=name)
    if kind == "azure-key-vault":
        from holdfast.engine.audit.tlog.cosigners_azure import AzureKeyVaultCosigner

        return AzureKeyVaultCosigner(rest, connection(kind), client, name=name)
    if kind == "file":
        from holdfast.engine.audit.tlog.cosigners_file import signer_from_file

        return signer_from_file(Path(rest), name)
    raise ConfigError(
        "this names no cosigner", expected=" or ".join(FORMS), found=f"{kind}:…" if colon else "a text without a kind"
    )
