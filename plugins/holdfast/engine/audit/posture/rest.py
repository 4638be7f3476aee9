"""JSON over HTTPS for the clouds whose settings are read by REST: timeouts, a budget of tries, pages, refusals."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from holdfast.clock import Clock
from holdfast.engine.audit.posture.interface import CannotTell, NotThere

_TIMEOUT = httpx.Timeout(10.0, connect=3.0)
_TRIES = 4
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0
#: More pages than this are not a listing of one account's settings.
_PAGES = 1000


@cache
def _tls() -> ssl.SSLContext:
    """One for all logins: reading the roots takes a while."""
    return httpx.create_ssl_context()


class JsonApi:
    """Requests of one login.

    Args:
        name: whose, in messages.
        headers: what authorises a request to a URL. Raises CannotTell.
        clock: pauses between tries.
        transport: of httpx, instead of the network.
    """

    def __init__(
        self,
        name: str,
        headers: Callable[[str], Mapping[str, str]],
        clock: Clock,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._name, self._headers, self._clock = name, headers, clock
        # A redirect would carry the token somewhere else.
        self._http = httpx.Client(timeout=_TIMEOUT, transport=transport, verify=_tls(), follow_redirects=False)

    def get(self, url: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Raises NotThere, CannotTell."""
        return self._json("GET", url, params, None)

    def post(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A question that is asked by POST, such as ``getIamPolicy``. Raises NotThere, CannotTell."""
        return self._json("POST", url, None, body)

    def pages(
        self,
        url: str,
        key: str,
        params: Mapping[str, str] | None = None,
        *,
        token: str = "pageToken",  # noqa: S107
    ) -> Iterator[Any]:
        """The items under ``key`` of all pages: Google's ``nextPageToken``, Azure's ``nextLink``, Graph's own.

        Raises:
            NotThere, CannotTell: also for a page that leads to another host, and for more pages than there can be.
        """
        asked, given = url, dict(params or {})
        for _ in range(_PAGES):
            page = self._json("GET", asked, given, None)
            yield from page.get(key) or ()
            link = page.get("nextLink") or page.get("@odata.nextLink")
            if link:
                if urlsplit(link)[:2] != urlsplit(url)[:2]:
                    raise CannotTell("the next page is at another host", where=f"{self._name}: {url}", found=link)
                asked, given = link, {}
            elif page.get("nextPageToken"):
                given[token] = page["nextPageToken"]
            else:
                return
        raise CannotTell("the pages do not end", where=f"{self._name}: {url}", found=f"{_PAGES} of them")

    def _json(
        self, method: str, url: str, params: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        where = f"{self._name}: {method} {url}"
        for number in range(1, _TRIES + 1):
            wait = _PAUSE_SECONDS * 2 ** (number - 1)
            try:
                answer = self._http.request(method, url, params=params or None, json=body, headers=self._headers(url))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = CannotTell("it does not answer", where=where, found=f"{type(error).__name__} {error}"[:300])
            else:
                if answer.status_code != 429 and answer.status_code < 500:
                    return _document(answer, where)
                problem = CannotTell("it is failing or throttling", where=where, found=f"HTTP {answer.status_code}")
                told = answer.headers.get("Retry-After", "")
                wait = float(told) if told.isdecimal() else wait
            if number < _TRIES:
                self._clock.sleep(min(wait, _LONGEST_PAUSE_SECONDS))
        raise problem


def _document(answer: httpx.Response, where: str) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.status_code == 200 and isinstance(found, dict):
        return found
    said = f"HTTP {answer.status_code} {_told(found)}"[:400]
    if answer.status_code == 404:
        raise NotThere("there is none", where=where, found=said)
    if answer.status_code in (401, 403):
        raise CannotTell("the credentials are wrong or not allowed to look", where=where, found=said)
    raise CannotTell("the answer is of no use", where=where, expected="HTTP 200 and a JSON object", found=said)


def _told(found: Any) -> str:
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return f"{error.get('code') or error.get('status') or ''} {error.get('message') or ''}".strip()
    return ""
