"""Google's own description of an API as routes and as a judge of bodies.

The documents ship with ``google-api-python-client``; an emulator that is checked against them cannot quietly accept
what the real API does not have.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from holdfast.sandbox.errors import MissingTool

_INTEGER_RANGES = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1)}
_TEXT_NUMBERS = {"int64": re.compile(r"-?\d+"), "uint64": re.compile(r"\d+")}


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API: its id, the schema of its body, its path and query parameters."""

    id: str
    http_method: str
    pattern: re.Pattern[str]
    request: str | None
    parameters: dict[str, dict[str, Any]]


class Discovery:
    """A discovery document.

    Args:
        name: file name without ending, e.g. ``dns.v1``.

    Raises:
        MissingTool: google-api-python-client is not installed.
    """

    def __init__(self, name: str) -> None:
        document = json.loads(_find(name).read_text(encoding="utf-8"))
        self._schemas: dict[str, Any] = document["schemas"]
        self._common: dict[str, Any] = document["parameters"]
        self._methods = [self._method(document["servicePath"], one) for one in _all_methods(document)]

    def route(self, http_method: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method a request is for, with its path parameters; ``path`` percent-encoded, without leading slash."""
        for method in self._methods:
            found = method.pattern.fullmatch(path) if method.http_method == http_method else None
            if found is not None:
                return method, {name: unquote(value) for name, value in found.groupdict().items()}
        return None

    def query_problems(self, method: Method, query: dict[str, str]) -> list[str]:
        """What is wrong with a query string."""
        known = {**self._common, **{k: v for k, v in method.parameters.items() if v["location"] == "query"}}
        problems = [
            f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
            for name in query
            if name not in known
        ]
        for name, value in query.items():
            if known.get(name, {}).get("type") == "integer" and not value.lstrip("-").isdigit():
                problems.append(f"Invalid value at '{name}' (TYPE_INT32), \"{value}\"")
        return problems

    def body_problems(self, schema: str, body: Any, where: str = "") -> list[str]:
        """What is wrong with a body, as the API would say it; also fit to judge the emulator's own answers."""
        return list(self._check(self._schemas[schema], body, where))

    def _method(self, service_path: str, method: dict[str, Any]) -> Method:
        # The flat path spells out what `{+name}` in the other one leaves open.
        path = service_path + method.get("flatPath", method["path"])
        pattern = "".join(
            f"(?P<{part[1:-1]}>[^/:]+)" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^}]+\})", path)
        )
        return Method(
            method["id"],
            method["httpMethod"],
            re.compile(pattern),
            method.get("request", {}).get("$ref"),
            method.get("parameters", {}),
        )

    def _check(self, schema: dict[str, Any], value: Any, where: str) -> list[str]:
        if "$ref" in schema:
            return self._check(self._schemas[schema["$ref"]], value, where)
        match schema.get("type"):
            case "object":
                return self._object(schema, value, where)
            case "array":
                if not isinstance(value, list):
                    return [_bad(where, "ARRAY", value)]
                return [p for i, one in enumerate(value) for p in self._check(schema["items"], one, f"{where}[{i}]")]
            case "string":
                return _text(schema, value, where)
            case "boolean":
                return [] if isinstance(value, bool) else [_bad(where, "TYPE_BOOL", value)]
            case "integer":
                low, high = _INTEGER_RANGES.get(schema.get("format", "int32"), (-(2**63), 2**63))
                good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
                return [] if good else [_bad(where, "TYPE_INT32", value)]
            case "number":
                return (
                    []
                    if isinstance(value, int | float) and not isinstance(value, bool)
                    else [_bad(where, "TYPE_DOUBLE", value)]
                )
        return []

    def _object(self, schema: dict[str, Any], value: Any, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [_bad(where, "OBJECT", value)]
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        problems = []
        for name, one in value.items():
            at = f"{where}.{name}" if where else name
            if name in properties:
                problems += self._check(properties[name], one, at)
            elif rest is not None:
                problems += self._check(rest, one, at)
            else:
                problems.append(
                    f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field."
                )
        return problems


def _text(schema: dict[str, Any], value: Any, where: str) -> list[str]:
    pattern = _TEXT_NUMBERS.get(schema.get("format", ""))
    if pattern is not None and isinstance(value, int) and not isinstance(value, bool):
        return []
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        return [_bad(where, "TYPE_STRING", value)]
    return [_bad(where, "ENUM", value)] if "enum" in schema and value not in schema["enum"] else []


def _bad(where: str, kind: str, value: Any) -> str:
    return f"Invalid value at '{where}' ({kind}), {json.dumps(value)[:80]}"


def _all_methods(resource: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(resource.get("methods", {}).values())
    for inner in resource.get("resources", {}).values():
        found += _all_methods(inner)
    return found


def _find(name: str) -> Path:
    spec = importlib.util.find_spec("googleapiclient")
    if spec is None or spec.origin is None:
        raise MissingTool(
            "Google's API descriptions are not installed",
            where="googleapiclient",
            expected="google-api-python-client",
            found="nothing",
            fix="pip install 'holdfast[sandbox]'",
        )
    return Path(spec.origin).parent / "discovery_cache" / "documents" / f"{name}.json"
