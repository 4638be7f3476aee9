"""Airflow's REST API, only read: one login, timeouts, a budget of retries, and refusals told apart from absence.

The bytes of an answer are given as they came: no compression is asked for, and redirects are not followed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from holdfast.clock import Clock, SystemClock
from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.config import Connection
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import httpx

#: Names behind which a cloud's machine keeps its own credentials; nothing of Airflow is there.
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog", "instance-data"})
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """How long and how often a call is tried.

    Args:
        timeout_seconds: of connecting, and of each read.
        tries: of one call.
        pause_seconds: before the second try; doubled before each further one.
        longest_pause_seconds: also the most that a ``Retry-After`` is obeyed.
        budget_seconds: all pauses of one `AirflowApi` together; after that nothing is tried again.
        answer_bytes: the largest answer that is read.
    """

    timeout_seconds: float = 30.0
    tries: int = 6
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 60.0
    budget_seconds: float = 300.0
    answer_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """Who reads: a token, or a user and a password that a token is fetched with. Nothing of it shows in a repr."""

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class AirflowApi:
    """An Airflow's API server. May be asked from several threads at once.

    Args:
        url: where it answers, without ``/api/v2``.
        login: who reads.
        clock: time of the pauses.
        limits: how long and how often a call is tried.
        transport: what carries the requests; a test puts an application here.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        *,
        clock: Clock | None = None,
        limits: ApiLimits | None = None,
        transport: httpx.BaseTransport | None = None,
        verify: bool | str = True,
    ) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._login = login
        self._clock = clock or SystemClock()
        self._limits = limits or ApiLimits()
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(self._limits.timeout_seconds),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            verify=verify if isinstance(verify, bool) else _certificates(verify),
        )
        self._lock = threading.Lock()
        self._token = login.token
        self._logins = 0
        #: The token was fetched, and no call has been answered with it yet.
        self._untried = False
        self._locked_out: SourceUnreadable | None = None
        self._budget = threading.Lock()
        self._waited_seconds = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes | None:
        """The body of an answer as it came, ``None`` where there is no such thing (404).

        A token that is refused is fetched anew once, where there is a password. Where that does not help, nothing is
        asked any more: a user is soon locked out by logins that fail.

        Raises:
            SourceUnreadable: anything else came, also after all tries. Its code is ``login-refused``,
                ``token-expired``, ``permission-refused``, ``throttled``, ``unreachable`` or ``unexpected-answer``.
        """
        if self._locked_out is not None:
            raise self._locked_out
        try:
            return self._get(path, params)
        except SourceUnreadable as error:
            if error.code in ("login-refused", "token-expired"):
                self._locked_out = error
            raise

    def _get(self, path: str, params: Mapping[str, str | int] | None) -> bytes | None:
        where = f"{self.url}{path}"
        token, logins = self._current()
        for again in (True, False):
            status, body = self._call("GET", path, where, params=params, token=token)
            if status != 401:
                self._untried = False
            if status == 200:
                return body
            if status == 404:
                return None
            if status != 401 or not again or not self._may_renew(logins):
                break
            token, logins = self._renewed(logins)
        if status == 401:
            raise SourceUnreadable(
                "the token is not accepted",
                code="token-expired",
                where=where,
                expected="200",
                found="401",
                fix="Renew the token of the source's connection, or give it a user and a password",
            )
        if status == 403:
            raise SourceUnreadable(
                "reading is not allowed",
                code="permission-refused",
                where=where,
                expected="200",
                found="403",
                fix="Let the source's user read the audit log (menu access to audit logs)",
            )
        raise SourceUnreadable(
            "an answer of another kind", code="unexpected-answer", where=where, expected="200 or 404", found=str(status)
        )

    def _current(self) -> tuple[str, int]:
        with self._lock:
            if self._token is None:
                self._token = self._fetch_token()
            return self._token, self._logins

    def _may_renew(self, logins: int) -> bool:
        """Whether there is a password, and the last login has not just brought a token that nothing accepted."""
        with self._lock:
            return self._login.password is not None and (logins != self._logins or not self._untried)

    def _renewed(self, logins: int) -> tuple[str, int]:
        """A new token, fetched once however many threads found the old one refused."""
        with self._lock:
            if logins == self._logins:
                self._token = self._fetch_token()
                self._logins += 1
            assert self._token is not None
            return self._token, self._logins

    def _fetch_token(self) -> str:
        import json

        path = "/auth/token"
        login = {"username": self._login.user, "password": self._login.password}
        status, body = self._call("POST", path, f"{self.url}{path}", json=login)
        if status not in (200, 201):
            raise SourceUnreadable(
                "the login was refused",
                code="login-refused",
                where=f"{self.url}{path}",
                expected="201",
                found=str(status),
                fix="Check user and password of the source's connection",
            )
        try:
            token = json.loads(body)["access_token"]
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str):
            raise SourceUnreadable(
                "the login brought no token",
                code="login-refused",
                where=f"{self.url}{path}",
                expected="a JSON object with `access_token`",
                found="something else",
            )
        self._untried = True
        return token

    def _call(
        self, method: str, path: str, where: str, *, token: str | None = None, **options: Any
    ) -> tuple[int, bytes]:
        """One call with its tries: the last status and body."""
        import httpx

        headers = {"Authorization": f"Bearer {token}"} if token else {}
        found = ""
        for attempt in range(self._limits.tries):
            after: float | None = None
            try:
                with self._client.stream(method, path, headers=headers, **options) as answer:
                    body = self._body(answer, where)
                    if answer.status_code not in _TRY_AGAIN:
                        return answer.status_code, body
                    found, after = str(answer.status_code), _retry_after(answer.headers.get("Retry-After"))
            except httpx.TransportError as error:
                found = type(error).__name__
            if attempt + 1 < self._limits.tries and not self._paused(attempt, after):
                break
        throttled = found == "429"
        raise SourceUnreadable(
            "Airflow asked to wait for too long" if throttled else "Airflow does not answer",
            code="throttled" if throttled else "unreachable",
            where=where,
            expected=f"an answer within {self._limits.tries} tries and {self._limits.budget_seconds:g} s of pauses",
            found=found,
        )

    def _body(self, answer: httpx.Response, where: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in answer.iter_bytes():
            size += len(part)
            if size > self._limits.answer_bytes:
                raise SourceUnreadable("the answer is too large", code="unexpected-answer", where=where,
                                 expected=f"at most {self._limits.answer_bytes} bytes", found="more")  # fmt: skip
            parts.append(part)
        return b"".join(parts)

    def _paused(self, attempt: int, after: float | None) -> bool:
        """Wait before the next try; ``False`` when the budget is used up."""
        seconds = min(after or self._limits.pause_seconds * 2.0**attempt, self._limits.longest_pause_seconds)
        with self._budget:
            if self._waited_seconds + seconds > self._limits.budget_seconds:
                return False
            self._waited_seconds += seconds
        self._clock.sleep(seconds)
        return True


def api_of(
    connection: Connection,
    *,
    clock: Clock | None = None,
    limits: ApiLimits | None = None,
    transport: httpx.BaseTransport | None = None,
) -> AirflowApi:
    """The API an Airflow HTTP connection names.

    Host (with or without ``https://``), port and schema say where; login and password, or ``token`` in the extra, or a
    password without a login as the token, say who. ``ca_file`` in the extra names the certificates to trust.

    Raises:
        ConfigError: something is missing, or the host is one where a cloud keeps a machine's credentials.
    """
    where = f"connection {connection.conn_id!r}"
    login = Login(
        connection.login, connection.password if connection.login else None,
        connection.extra.get("token") or (None if connection.login else connection.password),
    )  # fmt: skip
    if not login.token and not (login.user and login.password):
        raise ConfigError("nobody to log in as", where=where, expected="login and password, or `token` in its extra",
                          found="neither")  # fmt: skip
    host = connection.host or ""
    url = host if "://" in host else f"{connection.schema_ or 'http'}://{host}"
    if connection.port and urlsplit(url).port is None:
        parts = urlsplit(url)
        url = parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()
    _expect_reachable(url, where)
    return AirflowApi(
        url, login, clock=clock, limits=limits, transport=transport, verify=connection.extra.get("ca_file") or True
    )


def _expect_reachable(url: str, where: str) -> None:
    parts = urlsplit(url)
    name = (parts.hostname or "").rstrip(".").lower()
    try:
        forbidden = ip_address(name).is_link_local
    except ValueError:
        forbidden = name in _METADATA_HOSTS
    if parts.scheme not in ("http", "https") or not name or forbidden or parts.username or parts.query:
        raise ConfigError("this is not where an Airflow answers", where=where,
                          expected="http or https, and a host that is no metadata service", found=url)  # fmt: skip


def _certificates(file: str) -> Any:
    import ssl

    return ssl.create_default_context(cafile=file)


def _retry_after(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
