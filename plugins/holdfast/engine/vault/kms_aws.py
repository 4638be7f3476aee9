"""AWS KMS as a recipient: Encrypt and Decrypt of a symmetric key, the context bound in as encryption context.

(`Encrypt <https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html>`_)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.vault.errors import (
    KeyServiceRefused,
    KeyServiceUnavailable,
    VaultError,
    WrongKey,
    not_installed,
)
from holdfast.errors import ConfigError

#: Of one request; with its tries, a service that is away costs about 20 s.
_CONNECT_SECONDS = 3
_READ_SECONDS = 5
_TRIES = 3
_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:key/[A-Za-z0-9-]+")
_OTHER_BYTES = ("InvalidCiphertextException", "IncorrectKeyException")
_TRANSIENT = (
    "DependencyTimeoutException",
    "InternalFailure",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
)


@dataclass(frozen=True)
class AwsKmsRecipient:
    """One symmetric key of AWS KMS.

    Args:
        key_name: its ARN. Not an alias: that can be pointed elsewhere, and then nothing opens.
        connection: Airflow's AWS connection: login and password (or the environment's credentials), and for an
            emulator ``extra.endpoint_url`` or ``extra.service_config.kms.endpoint_url``.
        client: boto3's ``kms`` client to use instead of one made from the connection.

    Raises:
        ConfigError: the name is no key's ARN.
    """

    key_name: str
    connection: Connection | None = field(default=None, repr=False)
    client: Any = field(default=None, repr=False, compare=False)
    kind: str = "aws-kms"

    def __post_init__(self) -> None:
        if not _ARN.fullmatch(self.key_name):
            raise ConfigError(
                "this names no key of AWS KMS",
                where=f"aws-kms:{self.key_name}",
                expected="a key's own ARN, arn:aws:kms:REGION:ACCOUNT:key/ID",
                found="an alias" if ":alias/" in self.key_name else "something else",
                fix="`aws kms describe-key --key-id …` shows it as `Arn`",
            )

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        answer = self._call("encrypt", KeyId=self.key_name, Plaintext=key, EncryptionContext=context)
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        answer = self._call("decrypt", KeyId=self.key_name, CiphertextBlob=wrapped, EncryptionContext=context)
        return bytes(answer["Plaintext"])

    def _call(self, method: str, **arguments: Any) -> Any:
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            return getattr(client, method)(**arguments)
        except ClientError as error:
            raise self._refused(method, error) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise KeyServiceRefused(
                "there are no credentials for AWS KMS",
                where=self.key_name,
                expected="a login in the connection, or credentials of the environment",
                found=str(error),
            ) from None
        except BotoCoreError as error:
            raise KeyServiceUnavailable("AWS KMS does not answer", where=self.key_name, found=str(error)) from None

    def _refused(self, method: str, error: Any) -> VaultError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _OTHER_BYTES:
            return WrongKey(
                "AWS KMS does not open it: another key, another context or other bytes", where=self.key_name, found=code
            )
        if code in _TRANSIENT or status >= 500 or status == 429:
            return KeyServiceUnavailable("AWS KMS is failing or throttling", where=self.key_name, found=code)
        return KeyServiceRefused(
            "AWS KMS refuses the key's use",
            where=self.key_name,
            expected=f"the right kms:{method.capitalize()} on an enabled key",
            found=code or f"HTTP {status}",
            fix="Use another recipient of the key set meanwhile",
        )

    def _client(self) -> Any:
        if self.client is None:
            object.__setattr__(self, "client", self._made())
        return self.client

    def _made(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise not_installed("boto3", self.key_name, error) from None
        found = _ARN.fullmatch(self.key_name)
        assert found is not None
        connection = self.connection
        extra = {} if connection is None else connection.extra
        service = extra.get("service_config", {}).get("kms", {})
        return boto3.client(
            "kms",
            aws_access_key_id=(connection.login or None) if connection else None,
            aws_secret_access_key=(connection.password or None) if connection else None,
            aws_session_token=extra.get("aws_session_token"),
            region_name=found["region"],
            endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
            config=Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": _TRIES},
            ),
        )
