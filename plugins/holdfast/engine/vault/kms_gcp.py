"""Google Cloud KMS as a recipient: Encrypt and Decrypt, the context bound in as additional authenticated data.

What is sent and what comes is compared by CRC-32C, as Google asks for
(`Data integrity <https://cloud.google.com/kms/docs/data-integrity-guidelines>`_).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.objectstore.checksums import crc32c
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.vault.errors import KeyServiceRefused, KeyServiceUnavailable, WrongKey, not_installed
from holdfast.errors import ConfigError

#: Of one request, and of all tries of one call.
_REQUEST_SECONDS = 5.0
_BUDGET_SECONDS = 15.0
#: An answer that came damaged is asked for again so often.
_TRIES = 3
_SCOPES = ("https://www.googleapis.com/auth/cloudkms",)
_NAME = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


@dataclass(frozen=True)
class GcpKmsRecipient:
    """One symmetric key of Cloud KMS; its primary version wraps, any of its versions unwraps.

    Args:
        key_name: ``projects/…/locations/…/keyRings/…/cryptoKeys/…``, without a version.
        connection: Airflow's Google connection: ``extra.keyfile_dict``, ``extra.key_path`` or default credentials.
        client: a ``google.cloud.kms_v1.KeyManagementServiceClient`` to use instead of one made from the connection.

    Raises:
        ConfigError: the name is no key's.
    """

    key_name: str
    connection: Connection | None = field(default=None, repr=False)
    client: Any = field(default=None, repr=False, compare=False)
    kind: str = "gcp-kms"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.key_name):
            raise ConfigError(
                "this names no key of Cloud KMS",
                where=f"gcp-kms:{self.key_name}",
                expected="projects/P/locations/L/keyRings/R/cryptoKeys/K",
                found="a version of one" if "/cryptoKeyVersions/" in self.key_name else "something else",
                fix="`gcloud kms keys list --keyring R --location L` shows it as `NAME`",
            )

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        """Raises KeyServiceRefused, KeyServiceUnavailable."""
        bound = canonical(context)
        request = {
            "name": self.key_name,
            "plaintext": key,
            "plaintext_crc32c": crc32c(key),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        answer = self._asked("encrypt", request, self._is_sound_encryption)
        return bytes(answer.ciphertext)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        """Raises WrongKey, KeyServiceRefused, KeyServiceUnavailable."""
        bound = canonical(context)
        request = {
            "name": self.key_name,
            "ciphertext": wrapped,
            "ciphertext_crc32c": crc32c(wrapped),
            "additional_authenticated_data": bound,
            "additional_authenticated_data_crc32c": crc32c(bound),
        }
        answer = self._asked("decrypt", request, lambda came: came.plaintext_crc32c == crc32c(came.plaintext))
        return bytes(answer.plaintext)

    def _is_sound_encryption(self, answer: Any) -> bool:
        return bool(
            answer.verified_plaintext_crc32c
            and answer.verified_additional_authenticated_data_crc32c
            and answer.ciphertext_crc32c == crc32c(answer.ciphertext)
            and answer.name.startswith(f"{self.key_name}/cryptoKeyVersions/")
        )

    def _asked(self, method: str, request: dict[str, Any], is_sound: Callable[[Any], bool]) -> Any:
        for _ in range(_TRIES):
            answer = self._call(method, request)
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
        except exceptions.InvalidArgument as error:
            raise WrongKey(
                "Cloud KMS does not open it: another key, another context or other bytes",
                where=self.key_name,
                found=error.message,
            ) from None
        except exceptions.TooManyRequests as error:
            raise self._unavailable(error) from None
        except (exceptions.ClientError, GoogleAuthError) as error:
            raise KeyServiceRefused(
                "Cloud KMS refuses the key's use",
                where=self.key_name,
                expected=f"the right cloudkms.cryptoKeyVersions.useTo{method.capitalize()} on an enabled version",
                found=str(error),
                fix="Use another recipient of the key set meanwhile",
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
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.oauth2 import service_account

        extra = {} if self.connection is None else self.connection.extra
        extra = {name.removeprefix("extra__google_cloud_platform__"): value for name, value in extra.items()}
        made = service_account.Credentials
        try:
            if found := extra.get("keyfile_dict"):
                info = json.loads(found) if isinstance(found, str) else found
                return made.from_service_account_info(info, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
            if path := extra.get("key_path"):
                return made.from_service_account_file(path, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
            credentials, _ = google.auth.default(scopes=_SCOPES)
        except (GoogleAuthError, OSError, ValueError) as error:
            # The error may quote the key.
            raise KeyServiceRefused(
                "there are no credentials for Cloud KMS",
                where=self.key_name,
                expected="extra.keyfile_dict, extra.key_path or default credentials",
                found=type(error).__name__,
            ) from None
        return credentials
