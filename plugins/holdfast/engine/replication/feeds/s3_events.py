"""S3's event notifications from an SQS queue.

A standard queue delivers at least once and in no order, and keeps a message four days unless told otherwise (at most
fourteen). What is polled is hidden from others for ``visibility_seconds``; a run that does not acknowledge in that
time, or dies, gets it again. One queue serves one reader: two datasets that share a bucket need a queue each.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.replication.feeds import s3_messages
from holdfast.engine.replication.feeds.errors import FeedUnavailable
from holdfast.engine.replication.feeds.gathered import Gathered, ScopedFeed
from holdfast.engine.replication.feeds.interface import Changes, Rejected, Scope
from holdfast.errors import ConfigError

#: SQS's own limit of one request.
_BATCH = 10
_NO_RIGHT = ("AccessDenied", "InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidSecurity")
_NO_QUEUE = ("NonExistentQueue", "QueueDoesNotExist", "InvalidAddress")


class SqsFeed(ScopedFeed):
    """The notifications of one bucket.

    Args:
        queue: the queue's name.
        connection: Airflow's AWS connection: login and password (or the environment's credentials),
            ``extra.region_name``, and for an emulator ``extra.endpoint_url`` or
            ``extra.service_config.sqs.endpoint_url``.
        scope: bucket, prefix and folder that count; other events are acknowledged and dropped.
        region: of the queue, unless the connection names one.
        owner: account id of the queue's owner, when it is another's.
        wait_seconds: how long an empty queue is listened to, 0 to 20.
        visibility_seconds: how long a polled message is hidden: longer than a sync takes, 12 h at most.
        timeout_seconds: of one request, beside the wait.
        access: where renewing credentials come from, instead of the connection's own fields.
        client: an SQS client to use instead of one made from the connection.
    """

    def __init__(
        self,
        queue: str,
        connection: Connection,
        scope: Scope,
        *,
        region: str,
        owner: str | None = None,
        wait_seconds: float = 1,
        visibility_seconds: float = 3600,
        timeout_seconds: float = 10,
        access: StoreAccess | None = None,
        client: Any = None,
    ) -> None:
        super().__init__(scope)
        self._queue, self._connection = queue, connection
        self._region, self._owner = region, owner
        self._wait_seconds, self._visibility_seconds = round(wait_seconds), round(visibility_seconds)
        self._timeout_seconds = timeout_seconds
        self._access = access if client is None else None
        self._keys: dict[str, str | None] = {}
        self._given = client
        self._url: str | None = None

    @property
    def name(self) -> str:
        return f"sqs://{self._owner + '/' if self._owner else ''}{self._queue}"

    def poll(self, cursor: str | None, limit: int) -> Changes:  # noqa: ARG002  # the queue itself is the cursor
        """Receives until the queue is empty or ``limit`` events came."""
        found = Gathered()
        while found.events < limit:
            try:
                messages = self._receive()
            except FeedUnavailable:
                if not found.events:
                    raise
                break  # what came is hidden from the next poll: use it now
            if not messages:
                return found.result(complete=True)
            for message in messages:
                self._take(message, found)
        return found.result(complete=False)

    def renew(self, changes: Changes) -> None:
        for batch in _batches(changes.receipts):
            entries = [
                {"Id": str(i), "ReceiptHandle": receipt, "VisibilityTimeout": self._visibility_seconds}
                for i, receipt in enumerate(batch)
            ]
            # A handle that is refused has expired: its message comes again, which is no loss.
            self._call("change_message_visibility_batch", Entries=entries)

    def acknowledge(self, changes: Changes) -> None:
        failed: list[str] = []
        for batch in _batches(changes.receipts):
            entries = [{"Id": str(i), "ReceiptHandle": receipt} for i, receipt in enumerate(batch)]
            answer = self._call("delete_message_batch", Entries=entries)
            # What the sender got wrong (an expired handle) comes again by itself; the rest was the service's fault.
            failed += [one.get("Code", "") for one in answer.get("Failed", []) if not one.get("SenderFault")]
        if failed:
            raise FeedUnavailable(
                "SQS did not delete all messages",
                where=self.name,
                found=f"{len(failed)} × {failed[0]}",
                fix="Nothing: they come again and are applied twice",
            )

    def _receive(self) -> list[Mapping[str, Any]]:
        answer = self._call(
            "receive_message",
            MaxNumberOfMessages=_BATCH,
            WaitTimeSeconds=self._wait_seconds,
            VisibilityTimeout=self._visibility_seconds,
            AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        return list(answer.get("Messages", []))

    def _take(self, message: Mapping[str, Any], found: Gathered) -> None:
        try:
            said = s3_messages.parse(message["Body"], self._scope)
        except s3_messages.NotUnderstood as error:
            facts = message.get("Attributes", {})
            sent = facts.get("SentTimestamp")
            found.rejected.append(
                Rejected(
                    id=message["MessageId"],
                    reason=str(error),
                    at=datetime.fromtimestamp(int(sent) / 1000, UTC) if sent else None,
                    deliveries=int(facts.get("ApproximateReceiveCount", 1)),
                    excerpt=message["Body"][:200],
                )
            )
            return
        found.changes += said.changes
        found.ignored += said.ignored
        found.receipts.append(message["ReceiptHandle"])

    def _call(self, method: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            client = self._client()
            if self._url is None:
                owner = {"QueueOwnerAWSAccountId": self._owner} if self._owner else {}
                self._url = client.get_queue_url(QueueName=self._queue, **owner)["QueueUrl"]
            return getattr(client, method)(QueueUrl=self._url, **arguments)
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            found = f"{code}: {error.response['Error'].get('Message', '')}"[:300]
            if any(word in code for word in (*_NO_RIGHT, *_NO_QUEUE)):
                raise ConfigError(
                    "SQS refused",
                    where=f"{self.name}, connection {self._connection.conn_id!r}",
                    expected="an existing queue and the right to receive and delete its messages",
                    found=found,
                ) from error
            raise FeedUnavailable("SQS did not do it", where=f"{self.name}: {method}", found=found) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(
                "no credentials for SQS", where=f"connection {self._connection.conn_id!r}", found=str(error)
            ) from error
        except (BotoCoreError, OSError) as error:
            raise FeedUnavailable(
                "SQS did not answer",
                where=self.name,
                expected=f"an answer within {self._timeout_seconds:g} s",
                found=f"{type(error).__name__}: {error}",
            ) from error

    def _client(self) -> Any:
        if self._access is not None and self._access.credentials is not None:
            keys = {**self._access.credentials().values}
            if keys != self._keys:  # renewed
                self._given, self._keys = None, keys
        if self._given is None:
            self._given = self._make_client()
        return self._given

    def _make_client(self) -> Any:
        import boto3
        from botocore.config import Config

        extra = self._connection.extra
        if extra.get("role_arn") and not self._keys:
            raise ConfigError(
                "assuming `role_arn` is done by Airflow's hook and not without it",
                where=f"connection {self._connection.conn_id!r}",
                expected="keys or the environment's own credentials (instance role, workload identity)",
                fix="Run this under Airflow, or let the environment assume the role",
            )
        keys = self._keys or {
            "access_key_id": self._connection.login or extra.get("aws_access_key_id"),
            "secret_access_key": self._connection.password or extra.get("aws_secret_access_key"),
            "token": extra.get("aws_session_token"),
        }
        service = (extra.get("service_config") or {}).get("sqs", {})
        return boto3.client(
            "sqs",
            aws_access_key_id=keys.get("access_key_id") or None,
            aws_secret_access_key=keys.get("secret_access_key") or None,
            aws_session_token=keys.get("token"),
            region_name=extra.get("region_name") or self._region,
            endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
            config=Config(
                connect_timeout=self._timeout_seconds,
                read_timeout=self._timeout_seconds + self._wait_seconds,
                # Receiving, hiding and deleting may all be repeated.
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )


def _batches(receipts: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [receipts[start : start + _BATCH] for start in range(0, len(receipts), _BATCH)]
