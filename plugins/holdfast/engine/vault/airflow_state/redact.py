"""Configuration without its secrets: by the option's name, by what a URL may carry, and by the secrets one knows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "<redacted>"
_NAMES = (
    r"password|passwd|passphrase|secret|secret_key|fernet_key|token|private_key|credential|credentials|access_key|"
    r"api_key|account_key|dsn|sas|signature"
)
_OPTION = re.compile(
    rf"(^|[_-])({_NAMES})$|_(cmd|secret)$|^sql_alchemy_(conn|engine_args|connect_args)|connect_args|"
    r"^(broker_url|result_backend)$|_kwargs$|^connection_string$|_headers$",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"://([^\s:/?#@]*):\S*@")
#: A user part alone may be a token; in the URL of an object it is the name of a connection.
_USER = re.compile(r"(?<!s3)(?<!gs)(?<!gcs)(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)(?<!file)://[^\s:/?#@]+@")
_QUERY = re.compile(rf"([?&;](?:\w*[_-])?(?:{_NAMES}|sig)=)[^&;\s]+", re.IGNORECASE)


def redact(configuration: Mapping[str, Mapping[str, str]], secrets: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Airflow's configuration by section and option, fit to lie beside a backup.

    Args:
        secrets: values that must not appear in any option, whatever its name.
    """
    known = sorted({secret for secret in secrets if len(secret) > 3}, key=len, reverse=True)
    return {
        section: {option: _option(option, value, known) for option, value in options.items()}
        for section, options in configuration.items()
    }


def _option(option: str, value: str, secrets: list[str]) -> str:
    if not value:
        return value
    if value.strip() == "< hidden >" or _OPTION.search(option):
        return REDACTED
    if value.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(_document(json.loads(value), secrets))
        except ValueError:
            pass
    return _text(value, secrets)


def _document(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: REDACTED if isinstance(inner, str) and _OPTION.search(name) else _document(inner, secrets)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_document(inner, secrets) for inner in value]
    return _text(value, secrets) if isinstance(value, str) else value


def _text(value: str, secrets: list[str]) -> str:
    for secret in secrets:
        value = value.replace(secret, REDACTED)
    value = _PASSWORD.sub(rf"://\1:{REDACTED}@", value)
    value = _USER.sub(f"://{REDACTED}@", value)
    return _QUERY.sub(rf"\1{REDACTED}", value)
