"""JSON as RFC 8259 has it: Python's encoder writes NaN and Infinity, which no other reader takes."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: object, **options: Any) -> str:
    """A JSON document; a number that is not finite is null in it.

    Args:
        options: of `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        finite = json.loads(json.dumps(value, **options), parse_constant=lambda _: None)
        return json.dumps(finite, allow_nan=False, **options)
