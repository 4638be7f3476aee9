"""A fault proxy in front of a small HTTP server, without the rest of a sandbox."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from holdfast.sandbox.ports import free_port
from proxied import Proxy, Upstream


@pytest.fixture(scope="module")
def running_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    upstream = Upstream()
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("proxy")
    names = ("store", "service", "egress:other:store", "egress:dns")
    ports = {name: free_port() for name in names}
    control = free_port()
    listeners = {name: {"port": port, "upstream": upstream.server_port} for name, port in ports.items()}
    config = folder / "proxy.json"
    config.write_text(
        json.dumps({"site": "here", "control": control, "mode_file": str(folder / "mode.json"), "listeners": listeners})
    )
    proxy = Proxy(upstream, ports, control, config)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.process.kill()
        proxy.process.wait()
        complaints = proxy.log.read_text()
        upstream.shutdown()
        upstream.server_close()
    assert complaints == ""


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.set("up", drop=True)
    running_proxy.upstream.received.clear()
    return running_proxy
