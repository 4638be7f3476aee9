"""Cloud Storage's notifications from a Pub/Sub subscription.

Pub/Sub delivers at least once and in no order; an object's generation orders its events. What is pulled is leased for
ten minutes, the longest Pub/Sub grants: a longer sync calls `renew`. Not acknowledged, a message is kept seven days
unless the subscription says otherwise. One subscription serves one reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.objectstore.access import CredentialProvider, StoreAccess
from holdfast.engine.objectstore.gcp_login import gcp_credentials, gcp_fields
from holdfast.engine.replication.feeds.errors import FeedUnavailable
from holdfast.engine.replication.feeds.gathered import Gathered, ScopedFeed
from holdfast.engine.replication.feeds.interface import Change, Changes, Kind, Rejected, Scope
from holdfast.errors import ConfigError

#: Seconds a pulled message is leased for: Pub/Sub's limit.
LEASE_SECONDS = 600
_BATCH = 500
_FAR = datetime(2100, 1, 1, tzinfo=UTC)
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
#: After the event of the same generation that made the object.
_RANK = {"OBJECT_FINALIZE": 0, "OBJECT_METADATA_UPDATE": 1, "OBJECT_ARCHIVE": 2, "OBJECT_DELETE": 3}


class NotUnderstood(Exception):
    """The message is not a notification of Cloud Storage."""


def parse(attributes: Mapping[str, str], data: bytes, scope: Scope) -> Change | None:
    """What a notification says; ``None`` when it is of no concern. Raises NotUnderstood.

    The attributes say everything that counts; the payload, where the notification has one, only the size.
    """
    try:
        event = attributes["eventType"]
        generation = int(attributes["objectGeneration"])
        at = datetime.fromisoformat(attributes["eventTime"])
        key = scope.key(attributes["bucketId"], attributes["objectId"])
    except (KeyError, ValueError) as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None
    if key is None:
        return None
    told = _payload(data) if attributes.get("payloadFormat") == "JSON_API_V1" else {}
    kind: Kind = "delete" if event in ("OBJECT_DELETE", "OBJECT_ARCHIVE") else "put"
    rank = _RANK.get(event, 0)
    if kind == "delete" and (by := attributes.get("overwrittenByGeneration")):
        # The old half of an overwrite. It says that there is a new object, should that one's own event get lost.
        if not by.isdigit():
            raise NotUnderstood(f"overwrittenByGeneration {by!r}")
        kind, generation, rank, told = "put", int(by), 0, {}
    metageneration = int(told.get("metageneration") or 0)
    return Change(
        key=key,
        kind=kind,
        version=str(generation) if kind == "put" else None,
        e_tag=None,  # the payload's is the JSON API's, which listings do not use
        size_bytes=int(told["size"]) if kind == "put" and str(told.get("size", "")).isdigit() else None,
        at=at if at.tzinfo else at.replace(tzinfo=UTC),
        sequence=f"{generation:020d}.{rank}.{metageneration:010d}",
    )


def _payload(data: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(data) if data else {}
    except ValueError:
        raise NotUnderstood("the payload is no JSON") from None
    if not isinstance(told, dict) or not str(told.get("metageneration") or 0).isdigit():
        raise NotUnderstood("the payload is no object's metadata")
    return told


class PubSubFeed(ScopedFeed):
    """The notifications of one bucket.

    Args:
        subscription: ``projects/<project>/subscriptions/<name>``, a pull subscription without exactly-once delivery.
        connection: Airflow's Google connection: ``extra.keyfile_dict``, ``extra.key_path`` or the environment's
            default credentials; ``extra.pubsub_endpoint`` (Holdfast's own field, ``host:port``) leads to an emulator
            over plain HTTP/2.
        scope: bucket, prefix and folder that count; other events are acknowledged and dropped.
        wait_seconds: how long an empty subscription is listened to.
        timeout_seconds: of one request, beside the wait.
        access: where renewing credentials come from, instead of the connection's own fields.
        client: a `google.pubsub_v1.SubscriberClient` to use instead of one made from the connection.
    """

    def __init__(
        self,
        subscription: str,
        connection: Connection,
        scope: Scope,
        *,
        wait_seconds: float = 3,
        timeout_seconds: float = 10,
        access: StoreAccess | None = None,
        client: Any = None,
    ) -> None:
        super().__init__(scope)
        self._subscription, self._connection = subscription, connection
        self._wait_seconds, self._timeout_seconds = wait_seconds, timeout_seconds
        self._access, self._given = access, client

    @property
    def name(self) -> str:
        return f"pubsub://{self._subscription}"

    def poll(self, cursor: str | None, limit: int) -> Changes:  # noqa: ARG002  # the subscription is the cursor
        """Pulls until nothing comes for ``wait_seconds`` or ``limit`` events came."""
        self._reach()
        found = Gathered()
        while found.events < limit:
            try:
                messages = self._pull(min(_BATCH, limit - found.events))
            except FeedUnavailable:
                if not found.events:
                    raise
                break  # what came is leased and would not come again soon: use it now
            if not messages:
                return found.result(complete=True)
            for message in messages:
                self._take(message, found)
        return found.result(complete=False)

    def renew(self, changes: Changes) -> None:
        self._lease(changes.receipts)

    def acknowledge(self, changes: Changes) -> None:
        # An id whose lease ended is no error; its message may come again.
        for start in range(0, len(changes.receipts), _BATCH):
            self._call("acknowledge", {"ack_ids": list(changes.receipts[start : start + _BATCH])})

    def _pull(self, most: int) -> list[Any]:
        from google.api_core.exceptions import DeadlineExceeded

        try:
            answer = self._call("pull", {"max_messages": most}, timeout_seconds=self._wait_seconds)
        except FeedUnavailable as error:
            if isinstance(error.__cause__, DeadlineExceeded):
                return []  # the service was reached and had nothing to say
            raise
        messages = list(answer.received_messages)
        self._lease(tuple(message.ack_id for message in messages))
        return messages

    def _lease(self, receipts: tuple[str, ...]) -> None:
        for start in range(0, len(receipts), _BATCH):
            ids = list(receipts[start : start + _BATCH])
            self._call("modify_ack_deadline", {"ack_ids": ids, "ack_deadline_seconds": LEASE_SECONDS})

    def _take(self, received: Any, found: Gathered) -> None:
        message = received.message
        try:
            change = parse(dict(message.attributes), bytes(message.data), self._scope)
        except NotUnderstood as error:
            excerpt = f"{dict(message.attributes)} {bytes(message.data)[:100]!r}"[:200]
            deliveries = received.delivery_attempt or 1
            at = message.publish_time if message.publish_time and message.publish_time.timestamp() > 0 else None
            found.rejected.append(Rejected(message.message_id, str(error), at, deliveries, excerpt))
            return
        if change is None:
            found.ignored += 1
        else:
            found.changes.append(change)
        found.receipts.append(received.ack_id)

    def _reach(self) -> None:
        """A pull that ends at its deadline looks the same whether nothing came or nobody is there: find out first."""
        import grpc  # type: ignore[import-untyped, unused-ignore]

        channel = getattr(self._client().transport, "grpc_channel", None)
        if channel is not None:
            try:
                grpc.channel_ready_future(channel).result(timeout=self._timeout_seconds)
            except grpc.FutureTimeoutError:
                raise FeedUnavailable(
                    "Pub/Sub was not reached",
                    where=self.name,
                    expected=f"a connection within {self._timeout_seconds:g} s",
                ) from None

    def _call(self, method: str, request: dict[str, Any], *, timeout_seconds: float | None = None) -> Any:
        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type
        from google.auth.exceptions import GoogleAuthError

        timeout = timeout_seconds or self._timeout_seconds
        again = if_exception_type(exceptions.ServiceUnavailable, exceptions.Aborted, exceptions.InternalServerError)
        try:
            return getattr(self._client(), method)(
                request={"subscription": self._subscription, **request},
                timeout=timeout,
                retry=Retry(predicate=again, initial=0.1, maximum=1.0, timeout=timeout),
            )
        except (exceptions.NotFound, exceptions.PermissionDenied, exceptions.Unauthenticated) as error:
            raise ConfigError(
                "Pub/Sub refused",
                where=f"{self.name}, connection {self._connection.conn_id!r}",
                expected="an existing subscription and the role roles/pubsub.subscriber on it",
                found=f"{type(error).__name__}: {error.message}"[:300],
            ) from error
        except exceptions.InvalidArgument as error:
            raise ConfigError(
                "Pub/Sub did not understand the request", where=self.name, found=str(error.message)[:300]
            ) from error
        except GoogleAuthError as error:
            raise ConfigError(
                "no credentials for Pub/Sub", where=f"connection {self._connection.conn_id!r}", found=str(error)[:300]
            ) from error
        except exceptions.RetryError as error:
            raise self._unavailable(method, error.cause or error) from (error.cause or error)
        except exceptions.GoogleAPIError as error:
            raise self._unavailable(method, error) from error

    def _unavailable(self, method: str, error: BaseException) -> FeedUnavailable:
        return FeedUnavailable(
            "Pub/Sub did not do it", where=f"{self.name}: {method}", found=f"{type(error).__name__}: {error}"[:300]
        )

    def _client(self) -> Any:
        if self._given is None:
            import grpc
            from google.pubsub_v1.services.subscriber import SubscriberClient
            from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

            endpoint = self._connection.extra.get("pubsub_endpoint")
            if endpoint:
                channel = grpc.insecure_channel(str(endpoint).removeprefix("http://"))
                self._given = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            else:
                self._given = SubscriberClient(credentials=_credentials(self._connection, self._access))
        return self._given


def _credentials(connection: Connection, access: StoreAccess | None) -> Any:
    if access is not None and access.credentials is not None:
        return _renewing(access.credentials)
    extra = gcp_fields(connection)
    if extra.get("impersonation_chain") or extra.get("credential_config_file") or extra.get("key_secret_name"):
        raise ConfigError(
            "impersonation, workload federation or a key from a secret is done by Airflow's hook and not without it",
            where=f"connection {connection.conn_id!r}",
            expected="extra.keyfile_dict, extra.key_path or default credentials",
        )
    return gcp_credentials(connection, _SCOPES)


def _renewing(provider: CredentialProvider) -> Any:
    """A provider's tokens as Google's libraries take them: asked for again when one expires."""
    from google.oauth2.credentials import Credentials

    def renewed(*_: Any, **__: Any) -> tuple[str | None, datetime]:
        now = provider()
        return now.values.get("token"), (now.expires_at or _FAR).astimezone(UTC).replace(tzinfo=None)  # naive for them

    token, expiry = renewed()
    return Credentials(token, expiry=expiry, refresh_handler=renewed)  # type: ignore[no-untyped-call, unused-ignore]
