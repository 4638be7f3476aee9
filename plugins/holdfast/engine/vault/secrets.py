"""What each role knows: a writer names and seals, a reader opens, an administrator signs what removes."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.engine.vault.crypto import hkdf
from holdfast.engine.vault.errors import NotEntitled

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

ROLES = ("writer", "reader", "admin")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@dataclass(frozen=True)
class Secrets:
    """The secrets of one role of one repository.

    Args:
        role: ``writer``, ``reader`` or ``admin``.
        repository: id, 16 bytes.
        root: what names, metadata and cut points are derived from; every role has it. Who has it can tell whether
            content he knows is in the vault, and reads names and sizes, never content.
        signing: Ed25519 seed of the role, ``None`` for a reader.
        private: by generation, the X25519 private keys that open content; only a reader has them.
    """

    role: str
    repository: bytes
    root: bytes = field(repr=False)
    signing: bytes | None = field(default=None, repr=False)
    private: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def chunk_key(self) -> bytes:
        """Keys the BLAKE3 that names chunks."""
        return self._derived(b"chunk ids")

    @cached_property
    def metadata_key(self) -> bytes:
        """Seals indexes, trees and the bodies of log entries."""
        return self._derived(b"metadata")

    @cached_property
    def chunk_seed(self) -> int:
        """Alters the chunker's table, so that sizes of chunks say less about content."""
        return int.from_bytes(self._derived(b"cut points")[:8], "big") >> 1

    def _derived(self, what: bytes) -> bytes:
        return hkdf(self.root, salt=self.repository, info=b"holdfast vault 1|root|" + what)

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature. Raises NotEntitled: this role signs nothing."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed()).sign(data)

    def _seed(self) -> bytes:
        if self.signing is None:
            raise NotEntitled("these keys sign nothing", expected="a writer's or an administrator's", found=self.role)
        return self.signing

    @cached_property
    def verifier(self) -> bytes:
        """The Ed25519 public key of its signatures. Raises NotEntitled: this role signs nothing."""
        return verifier_of(self._seed())

    def private_key(self, generation: int) -> X25519PrivateKey | None:
        """The key that opens packs of this generation, ``None`` when this role has none."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        found = self.private.get(generation)
        return None if found is None else X25519PrivateKey.from_private_bytes(found)

    def to_dict(self) -> dict[str, Any]:
        """For a key object; see `from_dict`."""
        return {
            "role": self.role,
            "repository": self.repository.hex(),
            "root": b64(self.root),
            "signing": None if self.signing is None else b64(self.signing),
            "private": {str(number): b64(key) for number, key in sorted(self.private.items())},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], *, role: str, repository: bytes) -> Secrets:
        """Raises ValueError: these are no secrets of this role and repository. The message names none."""
        try:
            made = cls(
                role=found["role"],
                repository=bytes.fromhex(found["repository"]),
                root=unb64(found["root"]),
                signing=None if found["signing"] is None else unb64(found["signing"]),
                private={int(number): unb64(key) for number, key in found["private"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("secrets of another form") from None
        if made.role != role or made.repository != repository:
            raise ValueError("secrets of another role or repository")
        keys = [made.root, *made.private.values(), *([] if made.signing is None else [made.signing])]
        has_its_own = made.private and made.signing is None if role == "reader" else made.signing and not made.private
        if not has_its_own or any(len(key) != 32 for key in keys):
            raise ValueError("secrets of another form")
        return made


@dataclass(frozen=True)
class NewSecrets:
    """The secrets of a new repository, one set per role."""

    writer: Secrets
    reader: Secrets
    admin: Secrets

    @classmethod
    def make(cls) -> NewSecrets:
        signing, root = os.urandom(32), os.urandom(32)
        repository = repository_of(verifier_of(signing))
        return cls(
            writer=Secrets("writer", repository, root, signing=os.urandom(32)),
            reader=Secrets("reader", repository, root, private={1: os.urandom(32)}),
            admin=Secrets("admin", repository, root, signing=signing),
        )


def repository_of(first_admin: bytes) -> bytes:
    """The id of the repository that this administrator's Ed25519 public key began.

    So the id is the root of all trust: it is in everybody's secrets, and no other key can begin a log of it.
    """
    return hashlib.sha256(b"holdfast vault 1|repository|" + first_admin).digest()[:16]


def public_of(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def verifier_of(signing: bytes) -> bytes:
    """The Ed25519 public key of a seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(signing).public_key().public_bytes_raw()
