"""Traffic records in Amazon Route 53.

A change batch is all or nothing, ``DELETE`` must name exactly what is held and ``CREATE`` fails on what is there
(`ChangeResourceRecordSets <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html>`_),
which makes it a compare-and-swap. ``UPSERT`` would not be one and is not used.
"""

from __future__ import annotations

from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.traffic.change import ChangeConflict, Held, RecordSet
from holdfast.engine.traffic.interface import TrafficUnavailable
from holdfast.errors import ConfigError

_CONFLICTS = {"InvalidChangeBatch", "InvalidInput"}
_UNAVAILABLE = {
    "PriorRequestNotComplete",
    "Throttling",
    "ThrottlingException",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "RequestExpired",
}


class Route53Zone:
    """A hosted zone.

    Args:
        zone: the hosted zone's id.
        connection: Airflow's AWS connection: login and password (or the environment's credentials),
            ``extra.region_name``, and for an emulator ``extra.endpoint_url`` or
            ``extra.service_config.route53.endpoint_url``.
        timeout_seconds: of one request.
        client: a Route 53 client to use instead of one made from the connection.
    """

    def __init__(self, zone: str, connection: Connection, *, timeout_seconds: float, client: Any = None) -> None:
        self._zone = zone
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._given = client

    def read(self, record_name: str, record_type: str, companion_name: str) -> Held:
        """Both records. They are read one after the other; `replace` finds out when one changed in between."""
        return Held(self._get(record_name, record_type), self._get(companion_name, "TXT"))

    def replace(self, deletions: tuple[RecordSet, ...], additions: tuple[RecordSet, ...]) -> None:
        changes = [{"Action": "DELETE", "ResourceRecordSet": _body(one)} for one in deletions]
        changes += [{"Action": "CREATE", "ResourceRecordSet": _body(one)} for one in additions]
        self._call("change_resource_record_sets", HostedZoneId=self._zone, ChangeBatch={"Changes": changes})

    def _get(self, name: str, kind: str) -> RecordSet | None:
        answer = self._call(
            "list_resource_record_sets",
            HostedZoneId=self._zone,
            StartRecordName=name,
            StartRecordType=kind,
            MaxItems="1",
        )
        for one in answer["ResourceRecordSets"]:
            if one["Name"].lower() != name.lower() or one["Type"] != kind:
                continue
            if "ResourceRecords" not in one or "SetIdentifier" in one:
                raise ConfigError(
                    "the record has a routing policy, which Holdfast does not switch",
                    where=f"{name} {kind}",
                    expected="a simple record set",
                    found="an alias or a set identifier",
                )
            return RecordSet(name, kind, int(one["TTL"]), tuple(value["Value"] for value in one["ResourceRecords"]))
        return None

    def _call(self, method: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        where = f"hosted zone {self._zone}"
        try:
            return getattr(self._client(), method)(**arguments)
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            found = f"{code}: {error.response['Error'].get('Message', '')}"
            if code in _UNAVAILABLE or status >= 500:
                raise TrafficUnavailable("Route 53 did not do it", where=where, found=found) from error
            if code in _CONFLICTS and method == "change_resource_record_sets":
                raise ChangeConflict("Route 53 holds something else", where=where, found=found) from error
            raise ConfigError(
                "Route 53 refused", where=where, expected="an existing zone and the right to change it", found=found
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(
                "no credentials for Route 53", where=f"connection {self._connection.conn_id!r}", found=str(error)
            ) from error
        except (BotoCoreError, OSError) as error:
            raise TrafficUnavailable(
                "Route 53 did not answer",
                where=where,
                expected=f"an answer within {self._timeout_seconds:g} s",
                found=f"{type(error).__name__}: {error}",
            ) from error

    def _client(self) -> Any:
        if self._given is None:
            import boto3
            from botocore.config import Config

            extra = self._connection.extra
            service = extra.get("service_config", {}).get("route53", {})
            self._given = boto3.client(
                "route53",
                aws_access_key_id=self._connection.login or None,
                aws_secret_access_key=self._connection.password or None,
                aws_session_token=extra.get("aws_session_token"),
                # Route 53 is one service for the world; the region only picks the partition.
                region_name=extra.get("region_name") or "us-east-1",
                endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
                config=Config(
                    connect_timeout=self._timeout_seconds,
                    read_timeout=self._timeout_seconds,
                    # The switch repeats, and knows when that is safe.
                    retries={"mode": "standard", "total_max_attempts": 1},
                ),
            )
        return self._given


def _body(record: RecordSet) -> dict[str, Any]:
    return {
        "Name": record.name,
        "Type": record.type,
        "TTL": record.ttl_seconds,
        "ResourceRecords": [{"Value": value} for value in record.values],
    }
