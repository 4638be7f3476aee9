"""One key of AWS KMS, and how it is asked: with deadlines, a few tries, and errors told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import (
    KeyServiceError,
    KeyServiceRefused,
    KeyServiceUnavailable,
    not_installed,
)
from holdfast.errors import ConfigError

#: Of one request; with its tries, a service that is away costs about 20 s.
_CONNECT_SECONDS = 3
_READ_SECONDS = 5
_TRIES = 3
_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:key/[A-Za-z0-9-]+")
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
class AwsKmsKey:
    """One key of AWS KMS.

    Args:
        key_name: its ARN. Not an alias: that can be pointed elsewhere.
        connection: Airflow's AWS connection: login and password (or the environment's credentials), and for an
            emulator ``extra.endpoint_url`` or ``extra.service_config.kms.endpoint_url``.
        client: boto3's ``kms`` client to use instead of one made from the connection.

    Raises:
        ConfigError: the name is no key's ARN.
    """

    key_name: str
    connection: Connection | None = field(default=None, repr=False)
    client: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _ARN.fullmatch(self.key_name):
            raise ConfigError(
                "this names no key of AWS KMS",
                where=f"aws-kms:{self.key_name}",
                expected="a key's own ARN, arn:aws:kms:REGION:ACCOUNT:key/ID",
                found="an alias" if ":alias/" in self.key_name else "something else",
                fix="`aws kms describe-key --key-id …` shows it as `Arn`",
            )

    def call(self, method: str, **arguments: Any) -> Any:
        """What boto3's method answers about this key. Raises KeyServiceRefused, KeyServiceUnavailable."""
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            return getattr(client, method)(KeyId=self.key_name, **arguments)
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

    def _refused(self, method: str, error: Any) -> KeyServiceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _TRANSIENT or status >= 500 or status == 429:
            return KeyServiceUnavailable("AWS KMS is failing or throttling", where=self.key_name, found=code, code=code)
        return KeyServiceRefused(
            "AWS KMS refuses the key's use",
            where=self.key_name,
            expected=f"the right kms:{method.title().replace('_', '')} on an enabled key that does this",
            found=code or f"HTTP {status}",
            fix="Use another key meanwhile",
            code=code,
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
