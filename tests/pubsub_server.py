"""A Subscriber service on loopback: leases, redelivery and acknowledgement as Pub/Sub's documentation tells them.

No emulator of Pub/Sub can be installed from a package registry, so this stands in for one. It is written against the
same protocol buffers the client uses and proves the client's side only, not how Google's service behaves.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

SUBSCRIPTION = "projects/p/subscriptions/s"


@dataclass
class _Held:
    message: types.PubsubMessage
    deliveries: int = 0
    ack_id: str = ""
    leased_until: float = 0.0


class SubscriberServer:
    """One subscription. `expire` ends all leases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[_Held] = []
        self._ids = itertools.count(1)
        self.leases: list[int] = []
        self.failures: list[grpc.StatusCode] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            "Pull": self._handler(self._pull, types.PullRequest, types.PullResponse),
            "Acknowledge": self._handler(self._acknowledge, types.AcknowledgeRequest),
            "ModifyAckDeadline": self._handler(self._modify, types.ModifyAckDeadlineRequest),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", methods),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait(10)

    def publish(self, attributes: Mapping[str, str], data: bytes = b"") -> None:
        with self._lock:
            message = types.PubsubMessage(attributes=dict(attributes), data=data, message_id=str(next(self._ids)))
            message.publish_time = {"seconds": int(time.time())}
            self._held.append(_Held(message))

    def publish_again(self) -> None:
        """What at-least-once delivery does: every message that waits comes twice."""
        with self._lock:
            self._held += [_Held(held.message) for held in self._held]

    def expire(self) -> None:
        with self._lock:
            for held in self._held:
                held.leased_until = 0

    @property
    def waiting(self) -> int:
        with self._lock:
            return len(self._held)

    def _handler(self, call: Any, request: Any, response: Any = None) -> Any:
        def run(message: Any, context: grpc.ServicerContext) -> Any:
            if message.subscription != SUBSCRIPTION:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such subscription")
            if self.failures:
                context.abort(self.failures.pop(0), "as the test wants")
            return call(message, context)

        return grpc.unary_unary_rpc_method_handler(
            run,
            request_deserializer=request.deserialize,
            response_serializer=response.serialize if response else Empty.SerializeToString,
        )

    def _pull(self, request: types.PullRequest, context: grpc.ServicerContext) -> types.PullResponse:
        while context.is_active() and context.time_remaining() > 0.05:  # nothing is handed to a caller about to leave
            with self._lock:
                now = time.monotonic()
                free = [held for held in self._held if held.leased_until <= now][: request.max_messages]
                for held in free:
                    held.deliveries += 1
                    held.ack_id = f"ack-{next(self._ids)}"
                    held.leased_until = now + 10
                if free:
                    received = [
                        types.ReceivedMessage(
                            ack_id=held.ack_id, message=held.message, delivery_attempt=held.deliveries
                        )
                        for held in free
                    ]
                    return types.PullResponse(received_messages=received)
            time.sleep(0.005)
        return types.PullResponse()

    def _acknowledge(self, request: types.AcknowledgeRequest, _: grpc.ServicerContext) -> Empty:
        with self._lock:
            self._held = [held for held in self._held if held.ack_id not in set(request.ack_ids)]
        return Empty()

    def _modify(self, request: types.ModifyAckDeadlineRequest, _: grpc.ServicerContext) -> Empty:
        with self._lock:
            self.leases.append(request.ack_deadline_seconds)
            for held in self._held:
                if held.ack_id in set(request.ack_ids):
                    held.leased_until = time.monotonic() + request.ack_deadline_seconds
        return Empty()
