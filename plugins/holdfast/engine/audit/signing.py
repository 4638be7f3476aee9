"""Who signs the ledger's checkpoints: this machine's Ed25519 key, and keys that clouds keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from holdfast.engine.audit.ledger import SealRecord
from holdfast.engine.audit.tlog.cosigner_urls import cosigner_from_url
from holdfast.engine.audit.tlog.errors import NoteRefused
from holdfast.engine.audit.tlog.keys import LocalSigner, Signer
from holdfast.engine.audit.tlog.notes import Policy, Quorum, verify_checkpoint
from holdfast.engine.config import Cloud, Connection
from holdfast.engine.drill.dsse import key_id_of
from holdfast.engine.drill.keys import load_or_create_key, load_public_key
from holdfast.engine.runtime import Runtime

#: Whose login a key service takes.
_CLOUDS: Mapping[str, Cloud] = {"aws-kms": Cloud.AWS, "gcp-kms": Cloud.GCP, "azure-key-vault": Cloud.AZURE}


def cosigners(runtime: Runtime) -> list[Signer]:
    """The signers of the topology's ledger, this machine's first.

    Raises:
        ConfigError: a key cannot be read.
        SignerRefused, SignerUnavailable: a cloud does not give its public key.
    """
    settings = runtime.topology.audit
    assert settings is not None
    own = LocalSigner.of(settings.origin, load_or_create_key(runtime.environ))
    return [
        own,
        *(
            cosigner_from_url(text, settings.origin, connection=partial(login_of, runtime))
            for text in settings.keys.cosigners
        ),
    ]


def drill_keys(runtime: Runtime) -> dict[str, bytes]:
    """The raw public keys that may sign drills' evidence, by id (SHA-256 in hex); none: any may.

    Raises:
        ConfigError: a key cannot be read.
    """
    settings = runtime.topology.audit
    given = settings.keys.drills if settings else ()
    files = {text: runtime.topology.beside(text) for text in given}
    keys = [load_public_key(file if file.is_file() else text) for text, file in files.items()]
    return {key_id_of(key): key.public_bytes_raw() for key in keys}


def login_of(runtime: Runtime, kind: str) -> Connection | None:
    """The login of the ledger's first site in the cloud whose key it is."""
    cloud = _CLOUDS.get(kind)
    assert runtime.topology.audit is not None
    for name in (*runtime.topology.audit.sites, *runtime.topology.sites):
        site = runtime.topology.site(name)
        if site.cloud is cloud:
            return runtime.connections.get(site.connection)
    return None


def require_signed(record: SealRecord, signers: Sequence[Signer]) -> None:
    """The newest seal must be one that one of these keys signed. Raises NoteRefused."""
    quorum = Quorum(1, tuple(signer.key for signer in signers), "this ledger's signers")
    checkpoint, _ = verify_checkpoint(record.checkpoint.encode(), record.origin, Policy((quorum,)))
    if (checkpoint.size, checkpoint.root.hex()) != (record.size, record.root):
        raise NoteRefused(
            "the checkpoint is another seal's",
            where=f"seal {record.seal}",
            expected=f"{record.size} leaves, root {record.root}",
            found=f"{checkpoint.size} leaves, root {checkpoint.root.hex()}",
        )
