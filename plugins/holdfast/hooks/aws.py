"""The object store's access on AWS, through the Amazon provider's hook."""

from __future__ import annotations

from typing import Any

from holdfast.engine.config import Site
from holdfast.engine.objectstore.access import Credentials, StoreAccess
from holdfast.engine.objectstore.connect import s3_payload_options
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.hooks.connections import airflow_connection


def aws_access(site: Site) -> StoreAccess:
    """Endpoint, region and renewing session credentials of a site's connection.

    The session is Airflow's: static keys, a profile, an assumed role (STS, SAML, web identity), or the default chain
    when the connection has no login.

    :raises ConfigError: there is no such connection, or it is not an ``aws`` one.
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    connection = airflow_connection(site.connection, conn_type="aws")
    config = None if connection.extra_dejson.get("config_kwargs") else _bounded_config()
    region = connection.extra_dejson.get("region_name") or site.region
    hook = S3Hook(aws_conn_id=site.connection, region_name=region, config=config)
    return StoreAccess(
        endpoint=hook.conn_config.get_service_endpoint_url("s3"),
        options={"region": region, **s3_payload_options(connection.extra_dejson)},
        credentials=SessionCredentials(hook, where=f"connection {site.connection!r}"),
    )


class SessionCredentials:
    """The credentials of a hook's session; botocore renews the ones that expire.

    :param hook: any AWS hook.
    :param where: the connection, for messages.
    """

    def __init__(self, hook: Any, *, where: str) -> None:
        self._hook = hook
        self._where = where
        self._credentials: Any = None

    def __call__(self) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NoConnection

        try:
            return self._renewed()
        except ClientError as error:
            answer = error.response
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            failure = StoreUnavailable if status >= 500 or status == 429 else PermissionRefused
            code = answer.get("Error", {}).get("Code")
            raise failure("STS gave no credentials", where=self._where, found=f"HTTP {status} {code}") from None
        except (HTTPClientError, NoConnection) as error:
            raise StoreUnavailable(
                "STS cannot be reached",
                where=self._where,
                found=type(error).__name__,
                fix="Check service_config.sts.endpoint_url in the connection's extra, if it names an endpoint",
            ) from None
        except BotoCoreError as error:
            raise PermissionRefused("the login gave no credentials", where=self._where, found=str(error)) from None

    def _renewed(self) -> Credentials:
        if self._credentials is None:
            self._credentials = self._hook.get_session().get_credentials()
        if self._credentials is None:
            raise PermissionRefused(
                "there are no credentials",
                where=self._where,
                expected="a login in the connection, or credentials boto3 finds in the environment",
            )
        frozen = self._credentials.get_frozen_credentials()
        return Credentials(
            {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token},
            # botocore has no public name for it; credentials that never expire have none.
            expires_at=getattr(self._credentials, "_expiry_time", None),
        )


def _bounded_config() -> Any:
    """botocore's own defaults wait 60 seconds, several times over."""
    from botocore.config import Config

    return Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
