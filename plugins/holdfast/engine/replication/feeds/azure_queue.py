"""Event Grid's storage events from an Azure storage queue.

Event Grid delivers at least once and in no order; a blob's ``sequencer`` orders its events. A storage queue keeps a
message seven days unless told otherwise. What is polled is hidden for ``visibility_seconds``; a run that does not
acknowledge in that time, or dies, gets it again. A message that cannot be understood is reported each time it comes;
once it came ``most_deliveries`` times it is moved to the queue ``<queue>-poison``. One queue serves one reader.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore.access import CredentialProvider, StoreAccess
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.replication.feeds import azure_events
from holdfast.engine.replication.feeds.errors import FeedUnavailable
from holdfast.engine.replication.feeds.gathered import Gathered, ScopedFeed
from holdfast.engine.replication.feeds.interface import Changes, Rejected, Scope
from holdfast.errors import ConfigError

#: The service's own limit of one request.
_BATCH = 32
_FAR = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass
class _Held:
    """A message in hand. Its receipt changes when it is renewed."""

    receipt: str
    body: str


class AzureQueueFeed(ScopedFeed):
    """The storage events of one container.

    Args:
        account: the storage account the queue belongs to, as the connection must name it.
        queue: the queue's name.
        site: the source's site.
        connection: Airflow's connection of the site (``wasb``). ``extra.queue_endpoint`` (Holdfast's own field) or
            ``QueueEndpoint`` in a connection string leads to an emulator.
        scope: container, prefix and folder that count; other events are acknowledged and dropped.
        visibility_seconds: how long a polled message is hidden: longer than a sync takes, 7 days at most.
        most_deliveries: after so many a message that cannot be understood is moved aside.
        timeout_seconds: of one request.
        access: where renewing credentials come from, instead of the connection's own fields.
    """

    def __init__(
        self,
        account: str,
        queue: str,
        site: Site,
        connection: Connection,
        scope: Scope,
        *,
        visibility_seconds: float = 3600,
        most_deliveries: float = 5,
        timeout_seconds: float = 10,
        access: StoreAccess | None = None,
    ) -> None:
        super().__init__(scope)
        self._account, self._queue = account, queue
        self._site, self._connection = site, connection
        self._visibility_seconds, self._most_deliveries = round(visibility_seconds), round(most_deliveries)
        self._timeout_seconds = timeout_seconds
        self._access = access
        self._clients: dict[str, Any] = {}
        self._held: dict[str, _Held] = {}

    @property
    def name(self) -> str:
        return f"azure-queue://{self._account}/{self._queue}"

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
        for receipt in changes.receipts:
            held = self._held[receipt]
            answer = self._unless_gone(
                "update_message", receipt, held.receipt, visibility_timeout=self._visibility_seconds
            )
            if answer is not None:
                held.receipt = answer.pop_receipt

    def acknowledge(self, changes: Changes) -> None:
        for receipt in changes.receipts:
            self._delete(receipt)
        for rejected in changes.rejected:
            if rejected.deliveries >= self._most_deliveries and rejected.id in self._held:
                self._move_aside(self._held[rejected.id].body)
                self._delete(rejected.id)

    def _receive(self) -> list[Any]:
        def receive(client: Any) -> list[Any]:
            return list(
                client.receive_messages(
                    messages_per_page=_BATCH, max_messages=_BATCH, visibility_timeout=self._visibility_seconds
                )
            )

        return list(self._call("receive", lambda: receive(self._client(self._queue))))

    def _take(self, message: Any, found: Gathered) -> None:
        self._held[message.id] = _Held(message.pop_receipt, message.content)
        try:
            events = _events(message.content)
            changes = [change for event in events for change in azure_events.parse(event, self._scope)]
        except azure_events.NotUnderstood as error:
            found.rejected.append(
                Rejected(
                    id=message.id,
                    reason=str(error),
                    at=message.inserted_on,
                    deliveries=message.dequeue_count or 1,
                    excerpt=message.content[:200],
                )
            )
            return
        found.changes += changes
        found.ignored += not changes
        found.receipts.append(message.id)

    def _delete(self, message_id: str) -> None:
        if (held := self._held.pop(message_id, None)) is not None:
            self._unless_gone("delete_message", message_id, held.receipt)

    def _move_aside(self, body: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        client = self._client(f"{self._queue}-poison")

        def send() -> None:
            try:
                client.send_message(body, time_to_live=-1)
            except ResourceNotFoundError:
                client.create_queue()
                client.send_message(body, time_to_live=-1)

        self._call("send to the poison queue", send)

    def _unless_gone(self, method: str, message_id: str, receipt: str, **how: Any) -> Any:
        """A call about one message; ``None`` when its receipt has expired: it comes again, which is no loss."""
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        def call() -> Any:
            try:
                return getattr(self._client(self._queue), method)(message_id, pop_receipt=receipt, **how)
            except ResourceNotFoundError:
                return None
            except HttpResponseError as error:
                if error.error_code in ("PopReceiptMismatch", "MessageNotFound"):  # type: ignore[attr-defined, unused-ignore]
                    return None
                raise

        return self._call(method, call)

    def _call(self, what: str, call: Any) -> Any:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        try:
            return call()
        except HttpResponseError as error:
            status = error.status_code or 0
            if isinstance(error, ClientAuthenticationError) or status in (400, 401, 403, 404):
                raise ConfigError(
                    "the queue refused",
                    where=f"{self.name}, connection {self._connection.conn_id!r}",
                    expected="an existing queue and the right to receive and delete its messages",
                    found=f"HTTP {status}: {error.message}"[:300],
                ) from error
            raise FeedUnavailable(
                "the queue did not do it", where=f"{self.name}: {what}", found=f"HTTP {status}"
            ) from error
        except AzureError as error:
            raise FeedUnavailable(
                "the queue did not answer",
                where=f"{self.name}: {what}",
                expected=f"an answer within {self._timeout_seconds:g} s",
                found=f"{type(error).__name__}: {error}"[:300],
            ) from error

    def _client(self, queue: str) -> Any:
        if queue not in self._clients:
            from azure.storage.queue import LinearRetry, QueueClient

            access = self._access or access_from_connection(self._site, self._connection)
            account = access.options.get("account_name")
            if account != self._account:
                raise ConfigError(
                    "the queue's account is another than the connection's",
                    where=f"{self.name}, connection {self._connection.conn_id!r}",
                    expected=self._account,
                    found=str(account),
                )
            try:
                self._clients[queue] = QueueClient(
                    queue_endpoint(self._account, self._connection, access),
                    queue,
                    credential=_credential(access),
                    connection_timeout=self._timeout_seconds,
                    read_timeout=self._timeout_seconds,
                    # Its default waits 15 s before the second of four attempts.
                    retry_policy=LinearRetry(backoff=1, retry_total=2, random_jitter_range=0),
                )
            except ValueError as error:
                raise ConfigError(
                    "the connection makes no client of the queue",
                    where=f"{self.name}, connection {self._connection.conn_id!r}",
                    found=str(error)[:200],
                ) from None
        return self._clients[queue]


def queue_endpoint(account: str, connection: Connection, access: StoreAccess) -> str:
    """The URL of the account's queue service. Raises ConfigError when only the blob service's is known."""
    extra = {name.removeprefix("extra__wasb__"): value for name, value in connection.extra.items()}
    if named := extra.get("queue_endpoint"):
        return str(named)
    parts = dict(part.partition("=")[::2] for part in str(extra.get("connection_string") or "").split(";"))
    if named := parts.get("QueueEndpoint"):
        return str(named)
    if access.endpoint is None:
        return f"https://{account}.queue.core.windows.net"
    if ".blob." in access.endpoint:
        return access.endpoint.replace(".blob.", ".queue.", 1)
    raise ConfigError(
        "the connection does not say where the queue service is",
        where=f"connection {connection.conn_id!r}",
        expected="extra.queue_endpoint, or a host of the form https://<account>.blob.…",
        found=access.endpoint,
    )


def _credential(access: StoreAccess) -> Any:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    if access.credentials is not None:
        values = access.credentials().values
        if key := values.get("access_key"):
            return AzureNamedKeyCredential(access.options["account_name"], key)
        if sas := values.get("sas_token"):
            return AzureSasCredential(sas)
        return _Tokens(access.credentials)
    try:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential
    except ImportError:
        raise ConfigError(
            "logging in without a key or a SAS token needs azure-identity",
            where="azure-queue",
            expected="the package azure-identity",
            found="nothing",
            fix="pip install azure-identity, or give the connection a key or a SAS token",
        ) from None
    if "tenant_id" in access.options:
        return ClientSecretCredential(
            access.options["tenant_id"], access.options["client_id"], access.options["client_secret"]
        )
    return DefaultAzureCredential()


class _Tokens:
    """A provider's tokens as Azure's libraries take them."""

    def __init__(self, provider: CredentialProvider) -> None:
        self._provider = provider

    def get_token(self, *_: str, **__: Any) -> Any:
        from azure.core.credentials import AccessToken

        now = self._provider()
        return AccessToken(str(now.values.get("token")), round((now.expires_at or _FAR).timestamp()))


def _events(content: str) -> list[Mapping[str, Any]]:
    """The events in a message: Event Grid writes base64 of JSON, others may write JSON."""
    text = content
    if not content.lstrip().startswith(("{", "[")):
        try:
            text = base64.b64decode(content, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise azure_events.NotUnderstood("neither base64 nor JSON") from None
    try:
        told = json.loads(text)
    except ValueError:
        raise azure_events.NotUnderstood("no JSON") from None
    events = told if isinstance(told, list) else [told]
    if not events or not all(isinstance(event, dict) for event in events):
        raise azure_events.NotUnderstood("no event")
    return events
