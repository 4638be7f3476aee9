"""The posture of AWS: a site's bucket, the account behind it, the identity that looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.clock import Clock
from holdfast.engine.audit.posture.aws_account import AwsAccount
from holdfast.engine.audit.posture.aws_api import AwsApi
from holdfast.engine.audit.posture.aws_bucket import AwsBucket, partition_of
from holdfast.engine.audit.posture.interface import CannotTell, Place, Resource, Subject, Thresholds
from holdfast.engine.config import Connection


class AwsPosture:
    """See `Leaf`.

    Args:
        connection: how AWS is reached, as in `AwsApi`.
        region: where the account's trails are looked up; a bucket's are in its site's.
        thresholds: what counts as stale.
        clock: the wall clock; it waits for the credential report.
        role: the published role that the identity is meant to have.
        make: from a service's name to a boto3 client, instead of the connection's own.
    """

    def __init__(
        self,
        connection: Connection,
        region: str,
        thresholds: Thresholds,
        clock: Clock,
        *,
        role: str | None = None,
        make: Callable[[str], Any] | None = None,
    ) -> None:
        self._connection, self._thresholds, self._make = connection, thresholds, make
        self._apis: dict[str, AwsApi] = {}
        self._region = region
        self._account = AwsAccount(self._api(region), thresholds, clock, role)

    def _api(self, region: str) -> AwsApi:
        if region not in self._apis:
            self._apis[region] = AwsApi(self._connection, region, make=self._make)
        return self._apis[region]

    @property
    def asked_at(self) -> str | None:
        return self._api(self._region).asked_at

    def bucket(self, place: Place) -> Subject:
        arn = f"arn:{partition_of(place.site.region)}:s3:::{place.site.bucket}"
        bare = Resource("aws", "bucket", arn, place.site.region)

        def resource() -> Resource:
            try:
                return Resource("aws", "bucket", arn, place.site.region, self._account.identity["Account"])
            except CannotTell:
                return bare

        return Subject(resource, AwsBucket(self._api(place.site.region), place, self._thresholds).asks(), bare)

    def accounts(self) -> list[Subject]:
        name = f"connection {self._connection.conn_id}"

        def account() -> Resource:
            uid = self._account.identity["Account"]
            return Resource("aws", "account", uid, account=uid)

        def identity() -> Resource:
            found = self._account.identity
            return Resource("aws", "identity", found["Arn"], account=found["Account"])

        return [
            Subject(account, self._account.asks(), Resource("aws", "account", name)),
            Subject(identity, self._account.asks_of_identity(), Resource("aws", "identity", name)),
        ]
