"""``matchGlob``: patterns on object names.

https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-objects-and-prefixes-using-glob
"""

from __future__ import annotations

import re
from collections.abc import Callable

from holdfast.sandbox.gcs.errors import GcsError, invalid

# In order of preference: a leading "**/" also matches nothing at all.
_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)|\[(?P<set>[!^]?[^]]+)\]"
    r"|(?P<open>\{)|(?P<close>\})|(?P<comma>,)|\\(?P<escaped>.)|(?P<letter>[^\[\\])",
    re.DOTALL,
)
_FIXED = {"folders": "(?:.*/)?", "all": ".*", "some": "[^/]*", "one": "[^/]"}


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches: ``*`` and ``?`` stop at a slash, ``**`` does not; ``[a-z]``, ``[!a]``, ``{x,y}``."""
    try:
        compiled = re.compile(_translate(pattern), re.DOTALL)
    except re.error:
        raise _malformed(pattern) from None
    return lambda name: compiled.fullmatch(name) is not None


def _translate(pattern: str) -> str:
    out: list[str] = []
    depth = position = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            raise _malformed(pattern)
        position = token.end()
        kind, value = token.lastgroup or "", token[token.lastgroup or 0]
        if kind == "open" or (kind == "close" and depth):
            depth += 1 if kind == "open" else -1
            out.append("(?:" if kind == "open" else ")")
        elif kind == "comma" and depth:
            out.append("|")
        elif kind == "set":
            negated = "^" if value[0] in "!^" else ""
            inside = re.sub(r"([\\[^&~|])", r"\\\1", value[len(negated) :])
            out.append(f"[{negated}{inside}]")
        else:
            out.append(_FIXED.get(kind) or re.escape(value))
    if depth:
        raise _malformed(pattern)
    return "".join(out)


def _malformed(pattern: str) -> GcsError:
    return invalid(f"Invalid glob pattern: {pattern!r}", location="matchGlob")
