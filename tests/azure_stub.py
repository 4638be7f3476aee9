"""A local HTTP server in the place of an Azure service, and strict reading of what an SDK sends it.

Strict means: every member of a body must be one that the SDK's own models declare, of the declared type, and none that
they call read-only. It says nothing of what the real service makes of a body.
"""

from __future__ import annotations

import enum
import json
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Wrong(Exception):
    """A body that the models do not allow."""


@dataclass
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def arm_error(status: int, code: str, message: str = "told so by the stub") -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


@dataclass
class Stub:
    """Answers by ``service(method, path, query, body)``. ``faults`` are given out first, one per matching request.

    A fault is (method, answer, effect): with ``effect`` the request is carried out and its answer lost.
    """

    service: Callable[[str, str, dict[str, str], Any], Answer | None]
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, Answer | None, bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, answer: Answer | None, *, effect: bool = False, times: int = 1) -> None:
        """The next requests of this method get this answer; None: the connection closes without one."""
        self.faults += [(method, answer, effect)] * times

    def sent(self, method: str) -> list[str]:
        return [path for sent, path in self.requests if sent == method]

    def answer(self, method: str, target: str, body: bytes) -> Answer | None:
        url = urlsplit(target)
        document = json.loads(body) if body else None
        with self.lock:
            self.requests.append((method, url.path))
            fault = next((found for found in self.faults if found[0] == method), None)
            if fault is not None:
                self.faults.remove(fault)
                if fault[2]:
                    self.service(method, url.path, dict(parse_qsl(url.query)), document)
                return fault[1]
            try:
                return self.service(method, url.path, dict(parse_qsl(url.query)), document)
            except Wrong as wrong:
                return arm_error(400, "InvalidRequestContent", str(wrong))


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """The stub on a free port of loopback; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            answer = stub.answer(self.command, self.path, self.rfile.read(length))
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            text = isinstance(answer.body, str)
            body = b"" if answer.body is None else (answer.body if text else json.dumps(answer.body)).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "iso-8601": (str,),
}


def check_attribute_map(models: Any, kind: str, document: Any, at: str = "body") -> None:
    """Against models of the older generator (``_attribute_map``, ``_validation``). Raises Wrong."""
    if kind in _PLAIN:
        if not isinstance(document, _PLAIN[kind]):
            raise Wrong(f"{at}: expected {kind}, found {document!r}")
    elif kind[0] == "[":
        _expect(isinstance(document, list), at, "a list", document)
        for index, entry in enumerate(document):
            check_attribute_map(models, kind[1:-1], entry, f"{at}[{index}]")
    elif kind[0] == "{":
        _expect(isinstance(document, dict), at, "a map", document)
        for name, entry in document.items():
            check_attribute_map(models, kind[1:-1], entry, f"{at}.{name}")
    else:
        _check_model(models, getattr(models, kind), document, at)


def _check_model(models: Any, model: Any, document: Any, at: str) -> None:
    _expect(isinstance(document, dict), at, model.__name__, document)
    left = json.loads(json.dumps(document))
    for name, declared in model._attribute_map.items():
        rules = model._validation.get(name, {})
        *folders, leaf = declared["key"].split(".")
        holder: Any = left
        for folder in folders:
            holder = holder.get(folder) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or leaf not in holder:
            _expect(not rules.get("required") or bool(rules.get("readonly")), f"{at}.{declared['key']}", "it", None)
            continue
        _expect(not rules.get("readonly"), f"{at}.{declared['key']}", "no read-only member", holder[leaf])
        check_attribute_map(models, declared["type"], holder.pop(leaf), f"{at}.{declared['key']}")
    for folder in {
        declared["key"].split(".")[0] for declared in model._attribute_map.values() if "." in declared["key"]
    }:
        if left.get(folder) == {}:
            del left[folder]
    _expect(not left, at, f"only members of {model.__name__}", left)


def _expect(holds: bool, at: str, expected: str, found: object) -> None:
    if not holds:
        raise Wrong(f"{at}: expected {expected}, found {found!r}")


def check_rest_fields(model: Any, document: Any, at: str = "body") -> None:
    """Against a model of the newer generator (``_attr_to_rest_field`` and annotations). Raises Wrong."""
    _expect(isinstance(document, dict), at, model.__name__, document)
    model = _by_discriminator(model, document)
    hints = _hints(model)
    left = dict(document)
    for attribute, declared in _fields(model).items():
        optional, kinds = hints[attribute]
        if declared._rest_name in left:
            _expect(declared._visibility != ["read"], f"{at}.{declared._rest_name}", "no read-only member", document)
            _check_value(kinds, left.pop(declared._rest_name), f"{at}.{declared._rest_name}")
        else:
            _expect(optional or declared._visibility == ["read"], f"{at}.{declared._rest_name}", "it", None)
    _expect(not left, at, f"only members of {model.__name__}", left)


def _by_discriminator(model: Any, document: dict[str, Any]) -> Any:
    named = next((one for one in _fields(model).values() if one._is_discriminator), None)
    return getattr(model, "__mapping__", {}).get(document.get(named._rest_name), model) if named else model


def _fields(model: Any) -> dict[str, Any]:
    """A model's members, which it works out when the first of it is made."""
    model.__new__(model)
    return model._attr_to_rest_field  # type: ignore[no-any-return]


def _hints(model: Any) -> dict[str, tuple[bool, tuple[Any, ...]]]:
    """Per attribute, whether it may be left out, and the types it may have."""
    found: dict[str, tuple[bool, tuple[Any, ...]]] = {}
    for base in reversed(model.__mro__):
        for name, text in getattr(base, "__annotations__", {}).items():
            scope = {**vars(sys.modules[base.__module__]), "_models": sys.modules[base.__module__.rsplit(".", 1)[0]]}
            kinds = _alternatives(eval(text, scope) if isinstance(text, str) else text, scope)
            found[name] = (type(None) in kinds, tuple(kind for kind in kinds if kind is not type(None)))
    return found


def _alternatives(kind: Any, scope: dict[str, Any]) -> tuple[Any, ...]:
    if isinstance(kind, (str, typing.ForwardRef)):
        kind = eval(kind if isinstance(kind, str) else kind.__forward_arg__, scope)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(one for part in typing.get_args(kind) for one in _alternatives(part, scope))
    if typing.get_origin(kind) in (list, dict):
        inner = typing.get_args(kind)[-1]
        return ((typing.get_origin(kind), _alternatives(inner, scope)),)
    return (kind,)


def _check_value(kinds: tuple[Any, ...], value: Any, at: str) -> None:
    """The value is of one of the types; of an enumeration, where there is one among them."""
    known = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    if known:
        values = {one.value for kind in known for one in kind}
        _expect(value in values, at, f"one of {sorted(values)}", value)
        return
    reasons = []
    for kind in kinds:
        try:
            _check_kind(kind, value, at)
        except Wrong as wrong:
            reasons.append(wrong)
        else:
            return
    if reasons:
        raise reasons[-1]


def _check_kind(kind: Any, value: Any, at: str) -> None:
    if isinstance(kind, tuple):
        container, inner = kind
        _expect(isinstance(value, container), at, f"a {container.__name__}", value)
        for place, entry in enumerate(value) if container is list else value.items():
            _check_value(inner, entry, f"{at}[{place}]")
    elif hasattr(kind, "_get_discriminator"):
        check_rest_fields(kind, value, at)
    elif kind in (str, int, bool):
        _expect(type(value) is kind, at, kind.__name__, value)
