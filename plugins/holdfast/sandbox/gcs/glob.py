"""``matchGlob``: patterns on object names.

https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-objects-and-prefixes-using-glob
"""

from __future__ import annotations

import re
from collections.abc import Callable

from holdfast.sandbox.gcs.errors import invalid


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches: ``*`` and ``?`` stop at a slash, ``**`` does not; ``[a-z]``, ``[!a]``, ``{x,y}``."""
    try:
        compiled = re.compile(_translate(pattern), re.DOTALL)
    except re.error:
        raise invalid(f"Invalid glob pattern: {pattern!r}", location="matchGlob") from None
    return lambda name: compiled.fullmatch(name) is not None


def _translate(pattern: str) -> str:
    out: list[str] = []
    depth = 0
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        if pattern.startswith("**/", index) and (index == 0 or pattern[index - 1] == "/"):
            out.append("(?:.*/)?")
            index += 3
            continue
        if pattern.startswith("**", index):
            out.append(".*")
            index += 2
            continue
        if letter == "*":
            out.append("[^/]*")
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[":
            end = pattern.find("]", index + 2)
            if end < 0:
                raise invalid(f"Invalid glob pattern: {pattern!r}", location="matchGlob")
            inside = pattern[index + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            out.append("[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            index = end
        elif letter == "{":
            depth += 1
            out.append("(?:")
        elif letter == "}" and depth:
            depth -= 1
            out.append(")")
        elif letter == "," and depth:
            out.append("|")
        elif letter == "\\" and index + 1 < len(pattern):
            index += 1
            out.append(re.escape(pattern[index]))
        else:
            out.append(re.escape(letter))
        index += 1
    if depth:
        raise invalid(f"Invalid glob pattern: {pattern!r}", location="matchGlob")
    return "".join(out)
