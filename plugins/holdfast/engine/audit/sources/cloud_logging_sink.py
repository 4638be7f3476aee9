"""A sink's settings, read from the Cloud Logging API: evidence of what it exports, and where to.

(https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.sinks/get)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from holdfast.engine.audit.interface import SourceUnreadable
from holdfast.engine.config import Connection
from holdfast.engine.objectstore.gcp_login import gcp_credentials, gcp_fields
from holdfast.errors import ConfigError

SERVICE = "https://logging.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/logging.read",)
_ATTEMPTS, _AGAIN = 3, (429, 500, 502, 503, 504)
_MOST_BYTES = 1024 * 1024


def sink_reader(
    sink: str, connection: Connection, *, endpoint: str = SERVICE, timeout_seconds: float = 10.0
) -> Callable[[], bytes]:
    """What reads a sink's settings: the API's JSON as it came. Nothing is asked before it is called.

    Args:
        sink: ``projects/<id>/sinks/<name>``.
        connection: Airflow's Google connection: ``extra.token``, ``extra.keyfile_dict``, ``extra.key_path``,
            ``extra.is_anonymous``, else the environment's default credentials.
        endpoint: of the service.
        timeout_seconds: of one request; at most three are made.

    The function raises SourceUnreadable.
    """

    def read() -> bytes:
        import requests
        from google.auth.exceptions import GoogleAuthError

        try:
            with _session(connection) as session:
                answer = session.get(
                    f"{endpoint}/v2/{sink}", timeout=timeout_seconds, stream=True, allow_redirects=False
                )
                data = answer.raw.read(_MOST_BYTES + 1, decode_content=True)
        except (GoogleAuthError, ConfigError) as error:
            raise _unreadable(sink, "permission-refused", str(error)[:200]) from error
        except (requests.RequestException, OSError) as error:
            raise _unreadable(sink, "store-unavailable", type(error).__name__) from error
        if answer.status_code in (401, 403):
            raise _unreadable(sink, "permission-refused", f"HTTP {answer.status_code}")
        if answer.status_code != 200 or len(data) > _MOST_BYTES or not _is_object(data):
            code = "throttled" if answer.status_code == 429 else "unreadable"
            raise _unreadable(sink, code, f"HTTP {answer.status_code}, {len(data)} bytes")
        return bytes(data)

    return read


def _session(connection: Connection) -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    extra = gcp_fields(connection)
    if extra.get("is_anonymous"):
        session: Any = requests.Session()
    elif token := extra.get("token"):
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {token}"
    else:
        from google.auth.transport.requests import AuthorizedSession

        session = AuthorizedSession(gcp_credentials(connection, _SCOPES))  # type: ignore[no-untyped-call]
    session.trust_env = False
    retry = Retry(total=_ATTEMPTS - 1, status_forcelist=_AGAIN, backoff_factor=0.5, raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _unreadable(sink: str, code: str, found: str) -> SourceUnreadable:
    return SourceUnreadable(
        "the sink's settings could not be read",
        code=code,
        where=sink,
        expected="`logging.sinks.get` on its project",
        found=found,
    )
