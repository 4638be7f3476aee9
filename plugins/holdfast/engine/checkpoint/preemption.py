"""Notices that the machine is about to be taken away, from its cloud's metadata endpoint. A bonus, never the plan.

The endpoints and their answers are those the providers document:

- AWS: ``spot/instance-action`` of the instance metadata, version 2 with its token; 404 until there is a notice.
- Google Cloud: ``instance/preempted``, ``TRUE`` from the notice on; the request waits for a change for a few seconds.
- Azure: the scheduled events; one of type ``Preempt`` that names this machine.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from holdfast.errors import ConfigError

#: The clouds' link-local address, reached directly and never through a proxy.
BASE_URL = "http://169.254.169.254"
#: Of one request, in seconds: how long the thread waits where there is no such endpoint, or no way to it.
TIMEOUT_SECONDS = 2.0
_TOKEN_SECONDS = 21600
_CHANGE_SECONDS = 5


class _Endpoint:
    """One kind of request after the other; each answer is (status, headers, text)."""

    def __init__(self, base_url: str, timeout_seconds: float) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port
        self._timeout_seconds = timeout_seconds

    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str = "GET", wait_seconds: float = 0.0
    ) -> tuple[int, Mapping[str, str], str]:
        """Raises OSError, HTTPException: no answer in time."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds + wait_seconds)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read(65536).decode(errors="replace")
        finally:
            connection.close()


def _aws(endpoint: _Endpoint) -> Callable[[], str | None]:
    token: list[str] = []

    def look() -> str | None:
        if not token:
            lives = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            status, _, text = endpoint.ask("/latest/api/token", lives, method="PUT")
            if status != 200:
                return None
            token.append(text)
        status, _, text = endpoint.ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token[0]})
        if status == 401:  # the token is too old
            token.clear()
        return text.strip() if status == 200 else None

    return look


def _gcp(endpoint: _Endpoint) -> Callable[[], str | None]:
    tag = ["0"]

    def look() -> str | None:
        query = f"wait_for_change=true&timeout_sec={_CHANGE_SECONDS}&last_etag={tag[0]}"
        status, headers, text = endpoint.ask(
            f"/computeMetadata/v1/instance/preempted?{query}",
            {"Metadata-Flavor": "Google"},
            wait_seconds=_CHANGE_SECONDS,
        )
        if status != 200:
            return None
        tag[0] = next((value for name, value in headers.items() if name.lower() == "etag"), "0")
        return "preempted" if text.strip() == "TRUE" else None

    return look


def _azure(endpoint: _Endpoint) -> Callable[[], str | None]:
    name: list[str] = []

    def look() -> str | None:
        asking = {"Metadata": "true"}
        if not name:
            status, _, text = endpoint.ask("/metadata/instance/compute/name?api-version=2021-02-01&format=text", asking)
            if status != 200:
                return None
            name.append(text.strip())
        status, _, text = endpoint.ask("/metadata/scheduledevents?api-version=2020-07-01", asking)
        events = json.loads(text).get("Events", []) if status == 200 else []
        # Those of the other machines of a scale set are told here as well.
        ours = [one for one in events if one.get("EventType") == "Preempt" and name[0] in one.get("Resources", [])]
        return f"Preempt, not before {ours[0].get('NotBefore') or 'now'}" if ours else None

    return look


#: By cloud: how to look, and how long to pause between two looks, in seconds.
_CLOUDS = {"aws": (_aws, 5.0), "gcp": (_gcp, 1.0), "azure": (_azure, 1.0)}
CLOUDS = tuple(_CLOUDS)


class PreemptionWatch:
    """Looks for a notice in a daemon thread, between `start` and `close`, and calls ``noticed`` once when there is one.

    What does not answer, or answers something else, is no notice, and is asked again.

    Args:
        cloud: one of `CLOUDS`.
        noticed: gets the notice's own words, in the thread.
        pause_seconds: between two looks; by default what the provider advises.

    Raises:
        ConfigError: there is no such cloud.
    """

    def __init__(
        self,
        cloud: str,
        noticed: Callable[[str], None],
        *,
        base_url: str = BASE_URL,
        timeout_seconds: float = TIMEOUT_SECONDS,
        pause_seconds: float | None = None,
    ) -> None:
        if cloud not in _CLOUDS:
            raise ConfigError(
                "no preemption notices are known of this cloud",
                where="preemption",
                expected=", ".join(CLOUDS),
                found=repr(cloud),
            )
        make, advised_seconds = _CLOUDS[cloud]
        self._look = make(_Endpoint(base_url, timeout_seconds))
        self._noticed = noticed
        self._pause_seconds = advised_seconds if pause_seconds is None else pause_seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preemption", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Nothing is noticed any more. A request under way is not waited for."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                notice = self._look()
            except (OSError, http.client.HTTPException, ValueError, AttributeError, TypeError):
                notice = None
            if notice is not None and not self._closed.is_set():
                self._noticed(notice)
                return
            self._closed.wait(self._pause_seconds)
