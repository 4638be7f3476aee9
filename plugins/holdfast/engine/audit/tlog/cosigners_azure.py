"""A cosigner whose key is an Azure Key Vault's: ES256, of a digest made here.

(`Sign <https://learn.microsoft.com/rest/api/keyvault/keys/sign/sign>`_) The service gives r and s as 64 bytes; a note
holds them as the DER of RFC 3279, as the other services give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from holdfast.engine.audit.tlog.keys import VerifierKey, checked_signature
from holdfast.engine.keyservice.azure import AzureKeyVaultKey
from holdfast.errors import ConfigError

_NUMBER_BYTES = 32


@dataclass(frozen=True)
class AzureKeyVaultCosigner(AzureKeyVaultKey):
    """One version of an EC key on P-256. Needs ``keys/get`` and ``keys/sign``.

    Args:
        key_name: with its version: another version is another key.
        name: what the key is called in a note.

    Raises:
        ConfigError: the name is no version's.
    """

    name: str = "azure-key-vault"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version is None:
            raise ConfigError(
                "this names a key of an Azure Key Vault without its version",
                where=f"azure-key-vault:{self.key_name}",
                expected="https://NAME.DOMAIN/keys/KEY/VERSION",
                fix="`az keyvault key show --vault-name … --name … --query key.kid` shows it",
            )

    @cached_property
    def key(self) -> VerifierKey:
        """Asked for once. Raises ConfigError (another kind of key), KeyServiceRefused, KeyServiceUnavailable."""
        shown = self.shown()
        kind, curve = str(shown.get("kty")), str(shown.get("crv"))
        if kind not in ("EC", "EC-HSM") or curve != "P-256":
            raise ConfigError(
                "the key of the Key Vault cannot cosign", where=self.key_name, expected="EC on P-256", found=kind
            )
        x, y = (int.from_bytes(self.decoded(shown.get(name))) for name in ("x", "y"))
        try:
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        except ValueError:
            raise self.odd("a point of P-256", "another") from None
        return VerifierKey.of(self.name, public)

    def sign(self, message: bytes) -> bytes:
        """Raises SignerError, ConfigError, KeyServiceRefused, KeyServiceUnavailable."""
        version = self.version
        assert version is not None
        made = self.operate("sign", version, "ES256", sha256(message).digest())
        if len(made) != 2 * _NUMBER_BYTES:
            raise self.odd(f"a signature of {2 * _NUMBER_BYTES} bytes", f"{len(made)}")
        r, s = int.from_bytes(made[:_NUMBER_BYTES]), int.from_bytes(made[_NUMBER_BYTES:])
        return checked_signature(self.key, message, encode_dss_signature(r, s))
