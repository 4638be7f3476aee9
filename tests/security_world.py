"""What attacks share: secrets that must not show up anywhere, and a service that repeats what it was told."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Canary:
    """A secret that is nowhere but where the test put it.

    Args:
        name: what it is the secret of.
        text: long enough to be there by no chance; with characters that percent-encoding changes.
    """

    name: str
    text: str

    @classmethod
    def of(cls, name: str) -> Canary:
        return cls(name, f"canary/{name}+must=not:show")

    @classmethod
    def base64_of(cls, name: str) -> Canary:
        """As keys of storage accounts are."""
        return cls(name, base64.b64encode(f"canary-key-of-{name}-0123456789abcdef".encode()).decode())

    def forms(self) -> dict[str, bytes]:
        """How it might be written: as it is, percent-encoded, in JSON, hex, base64 at each of the three offsets."""
        plain = self.text.encode()
        found = {
            "plain": plain,
            "percent": quote(self.text, safe="").encode(),
            "plus": quote_plus(self.text).encode(),
            "json": json.dumps(self.text)[1:-1].encode(),
            "hex": plain.hex().encode(),
        }
        for offset in range(3):
            whole = base64.b64encode(bytes(offset) + plain)
            # The first and the last quantum also hold what stands around it.
            inside = whole[4 if offset else 0 : -4]
            found[f"base64+{offset}"] = inside
            found[f"base64url+{offset}"] = inside.translate(bytes.maketrans(b"+/", b"-_"))
        return found


def leaks(canaries: Iterable[Canary], told: Mapping[str, bytes | str]) -> list[str]:
    """Where a canary shows.

    Args:
        told: name of a place → what is there.
    """
    found = []
    for place, content in told.items():
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        for canary in canaries:
            found += [f"{canary.name} as {form} in {place}" for form, text in canary.forms().items() if text in data]
    return found


def files_below(*folders: Path, without: Iterable[Path] = ()) -> dict[str, bytes]:
    """Every file of some folders, by its path; Parquet and gzip also unpacked."""
    import gzip

    import pyarrow.parquet as pq

    kept = {one.resolve() for one in without}
    found: dict[str, bytes] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.resolve() in kept:
                continue
            data = found[str(path)] = path.read_bytes()
            found[f"the name of {path}"] = str(path).encode()
            if data[:4] == b"PAR1":
                found[f"{path} (rows)"] = repr(pq.read_table(path).to_pylist()).encode()
            elif data[:2] == b"\x1f\x8b":
                found[f"{path} (inflated)"] = gzip.decompress(data)
    return found


class _Repeating(BaseHTTPRequestHandler):
    """Refuses everything, and says in the error all it was sent: headers, query, body."""

    status: ClassVar[int] = 403
    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]]

    def _refuse(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        told = f"{self.path} {dict(self.headers)} {body!r}".replace("<", "").replace("&", "&amp;")
        if "json" in self.headers.get("Accept", "") + self.headers.get("Content-Type", ""):
            error = {"code": "Refused", "message": told}
            answer = json.dumps({"error": error, "error_description": told}).encode()
        else:
            answer = f"<Error><Code>AccessDenied</Code><Message>{told}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr: that is looked through for secrets."""


@dataclass
class Repeater:
    """A service that refuses and repeats what it was told."""

    url: str
    seen: list[tuple[str, str, dict[str, str], bytes]]


@contextmanager
def repeater() -> Iterator[Repeater]:
    """One on loopback, until the block ends."""
    seen: list[tuple[str, str, dict[str, str], bytes]] = []
    handler = type("Handler", (_Repeating,), {"seen": seen})
    server = ThreadingHTTPServer((HOST, 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Repeater(f"http://{HOST}:{server.server_address[1]}", seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def redirector(to: str, status: int) -> Iterator[str]:
    """A service on loopback that sends every request elsewhere, path and query kept; its URL."""

    class Handler(_Repeating):
        seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

        def _send_away(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Location", f"{to}{self.path.partition('?')[0]}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _send_away

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
