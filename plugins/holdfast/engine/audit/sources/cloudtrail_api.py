"""CloudTrail's own API: the public keys of its digests, and a trail's status.

Least privilege: ``cloudtrail:ListPublicKeys`` and ``cloudtrail:GetTrailStatus``. Keys differ between regions, so each
region is asked itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.audit.sources.cloudtrail_chain import TrailStatus
from holdfast.engine.audit.sources.cloudtrail_digests import PublicKey
from holdfast.engine.config import Cloud, Connection
from holdfast.engine.config.audit import CloudTrailSource

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

_CONNECT_SECONDS, _READ_SECONDS, _TRIES = 5, 20, 5
_MAX_PAGES = 100
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_THROTTLED = ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded")

#: Makes boto3's ``cloudtrail`` client of a region.
ClientOf = Callable[[str], Any]


class AwsTrailApi:
    """See `cloudtrail.TrailApi`.

    Args:
        client_of: a client for a region.
        arn: of the trail, by which its shadows in other regions are known too; ``None``: its status is not asked for.
    """

    def __init__(self, client_of: ClientOf, arn: str | None) -> None:
        self._client_of, self._arn = client_of, arn
        self._clients: dict[str, Any] = {}

    def public_keys(self, region: str, start: datetime, end: datetime) -> Sequence[PublicKey]:
        """Raises SourceUnreadable."""
        asked: dict[str, Any] = {"StartTime": start, "EndTime": end}
        found: list[PublicKey] = []
        for _ in range(_MAX_PAGES):
            answer = self._call(region, "list_public_keys", **asked)
            found += [
                PublicKey(
                    region,
                    str(key["Fingerprint"]),
                    bytes(key["Value"]),
                    key["ValidityStartTime"].astimezone(UTC),
                    key["ValidityEndTime"].astimezone(UTC),
                )
                for key in answer.get("PublicKeyList", ())
            ]
            if not answer.get("NextToken"):
                return found
            asked["NextToken"] = answer["NextToken"]
        raise SourceUnreadable(
            "the public keys do not end", code="endless-pages", where=region, expected=f"at most {_MAX_PAGES} pages"
        )

    def status(self, region: str) -> TrailStatus:
        """Raises SourceUnreadable."""
        if self._arn is None:
            return TrailStatus()
        answer = self._call(region, "get_trail_status", Name=self._arn)
        return TrailStatus(
            answer.get("IsLogging"), _utc(answer.get("StopLoggingTime")), _utc(answer.get("LatestDigestDeliveryTime"))
        )

    def _call(self, region: str, operation: str, **asked: Any) -> dict[str, Any]:
        if region not in self._clients:
            self._clients[region] = self._client_of(region)
        return _called(self._clients[region], operation, region, asked)


def open_api(runtime: Runtime, settings: CloudTrailSource) -> AwsTrailApi | None:
    """The API by the connection of the source's site; ``None`` where that is not AWS: the bucket is a copy.

    Raises:
        ConfigError: its connection is not there.
    """
    site = runtime.topology.site(settings.site)
    if site.cloud is not Cloud.AWS:
        return None
    connection = runtime.connections.get(site.connection)
    return AwsTrailApi(lambda region: _made(connection, region), _arn(settings))


def _arn(settings: CloudTrailSource) -> str | None:
    """An organisation's trail belongs to its management account, which a member does not know."""
    if settings.organization is not None:
        return None
    region = settings.home_region
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    return f"arn:{partition}:cloudtrail:{region}:{settings.account}:trail/{settings.trail}"


def _called(client: Any, operation: str, where: str, asked: dict[str, Any]) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer: dict[str, Any] = getattr(client, operation)(**asked)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise SourceUnreadable(
            f"CloudTrail did not answer {operation}: {code}", code=_word(code), where=where
        ) from None
    except BotoCoreError as error:
        raise SourceUnreadable(
            f"CloudTrail could not be asked for {operation}: {type(error).__name__}",
            code="api-unreachable",
            where=where,
        ) from None
    return answer


def _word(code: str) -> str:
    if code in _EXPIRED:
        return "token-expired"
    if code.startswith(("AccessDenied", "UnrecognizedClient", "InvalidClientTokenId", "UnauthorizedOperation")):
        return "permission-refused"
    return "throttled" if code in _THROTTLED else "api-refused"


def _made(connection: Connection, region: str) -> Any:
    import boto3
    from botocore.config import Config

    extra = connection.extra
    service = extra.get("service_config", {}).get("cloudtrail", {})
    return boto3.client(
        "cloudtrail",
        aws_access_key_id=connection.login or None,
        aws_secret_access_key=connection.password or None,
        aws_session_token=extra.get("aws_session_token"),
        region_name=region,
        endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
        config=Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
        ),
    )


def _utc(when: datetime | None) -> datetime | None:
    return None if when is None else when.astimezone(UTC)
