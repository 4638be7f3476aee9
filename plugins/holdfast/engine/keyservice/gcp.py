"""One key of Google Cloud KMS, and how it is asked: with deadlines, a few tries, and errors told apart.

What is sent and what comes is compared by CRC-32C, as Google asks for
(`Data integrity <https://cloud.google.com/kms/docs/data-integrity-guidelines>`_).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import KeyServiceRefused, KeyServiceUnavailable, not_installed
from holdfast.engine.objectstore.gcp_login import gcp_credentials
from holdfast.errors import ConfigError

#: Of one request, and of all tries of one call.
_REQUEST_SECONDS = 5.0
_BUDGET_SECONDS = 15.0
#: An answer that came damaged is asked for again so often.
_TRIES = 3
_SCOPES = ("https://www.googleapis.com/auth/cloudkms",)
#: What a method needs.
_RIGHTS = {
    "encrypt": "useToEncrypt",
    "decrypt": "useToDecrypt",
    "asymmetric_sign": "useToSign",
    "get_public_key": "viewPublicKey",
}


@dataclass(frozen=True)
class GcpKmsKey:
    """One key of Cloud KMS, or one version of it.

    Args:
        key_name: ``projects/…/locations/…/keyRings/…/cryptoKeys/…``, and whatever a subclass wants below.
        connection: Airflow's Google connection: ``extra.keyfile_dict``, ``extra.key_path`` or default credentials.
        client: a ``google.cloud.kms_v1.KeyManagementServiceClient`` to use instead of one made from the connection.
    """

    key_name: str
    connection: Connection | None = field(default=None, repr=False)
    client: Any = field(default=None, repr=False, compare=False)

    def call(self, method: str, request: dict[str, Any], is_sound: Callable[[Any], bool]) -> Any:
        """What the client's method answers about this key, asked again until its checksums agree.

        Raises KeyServiceRefused, KeyServiceUnavailable.
        """
        for _ in range(_TRIES):
            answer = self._call(method, {"name": self.key_name, **request})
            if is_sound(answer):
                return answer
        raise KeyServiceUnavailable(
            "what went to Cloud KMS or came from it was changed on the way",
            where=self.key_name,
            expected="checksums (CRC-32C) that agree",
            found=f"others, {_TRIES} times",
        )

    def _call(self, method: str, request: dict[str, Any]) -> Any:
        client = self._client()
        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type
        from google.auth.exceptions import GoogleAuthError

        again = if_exception_type(
            exceptions.ServiceUnavailable, exceptions.InternalServerError, exceptions.TooManyRequests
        )
        retry = Retry(predicate=again, initial=0.1, maximum=1.0, timeout=_BUDGET_SECONDS)
        try:
            return getattr(client, method)(request=request, timeout=_REQUEST_SECONDS, retry=retry)
        except exceptions.TooManyRequests as error:
            raise self._unavailable(error) from None
        except (exceptions.ClientError, GoogleAuthError) as error:
            raise KeyServiceRefused(
                "Cloud KMS refuses the key's use",
                where=self.key_name,
                expected=f"the right cloudkms.cryptoKeyVersions.{_RIGHTS[method]} on an enabled version that does this",
                found=str(error),
                fix="Use another key meanwhile",
                code=type(error).__name__,
            ) from None
        except (exceptions.GoogleAPICallError, exceptions.RetryError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> KeyServiceUnavailable:
        return KeyServiceUnavailable("Cloud KMS does not answer", where=self.key_name, found=str(error))

    def _client(self) -> Any:
        if self.client is None:
            try:
                from google.cloud.kms_v1 import KeyManagementServiceClient
            except ImportError as error:
                raise not_installed("google-cloud-kms", self.key_name, error) from None
            object.__setattr__(self, "client", KeyManagementServiceClient(credentials=self._credentials()))
        return self.client

    def _credentials(self) -> Any:
        try:
            return gcp_credentials(self.connection, _SCOPES)
        except ConfigError as error:
            raise KeyServiceRefused(
                "there are no credentials for Cloud KMS",
                where=self.key_name,
                expected=error.expected,
                found=error.found,
            ) from None
