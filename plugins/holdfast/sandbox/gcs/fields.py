"""The ``fields`` parameter: partial responses.

Grammar: https://cloud.google.com/storage/docs/json_api#partial-response, e.g.
``items(name,owner/entity),nextPageToken``.
"""

from __future__ import annotations

from typing import Any

from holdfast.sandbox.gcs.errors import invalid

Mask = dict[str, "Mask"]


def parse(text: str) -> Mask:
    """A mask from its notation; an empty mask below a name means all of it. 400 when malformed."""
    mask, rest = _group(text)
    if rest:
        raise invalid(f"Invalid field selection {text}", location="fields")
    return mask


def select(mask: Mask, value: Any) -> Any:
    """What the mask leaves of a resource."""
    if not mask or ("*" in mask and not mask["*"]):
        return value
    if isinstance(value, list):
        return [select(mask, item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: select(mask.get(key, mask.get("*", {})), value[key]) for key in value if key in mask or "*" in mask}


def _group(text: str) -> tuple[Mask, str]:
    mask: Mask = {}
    while True:
        end = next((index for index, letter in enumerate(text) if letter in ",/()"), len(text))
        name, text = text[:end].strip(), text[end:]
        if not name:
            raise invalid("Invalid field selection: a name is missing.", location="fields")
        below: Mask = {}
        if text.startswith("/"):
            # A path names one thing below; what follows a comma belongs to this level again.
            below, text = _path(text[1:])
        elif text.startswith("("):
            below, text = _parenthesised(text)
        mask.setdefault(name, {}).update(below)
        if not text.startswith(","):
            return mask, text
        text = text[1:]


def _path(text: str) -> tuple[Mask, str]:
    end = next((index for index, letter in enumerate(text) if letter in ",/()"), len(text))
    name, text = text[:end].strip(), text[end:]
    if not name:
        raise invalid("Invalid field selection: a name is missing.", location="fields")
    if text.startswith("/"):
        below, text = _path(text[1:])
        return {name: below}, text
    if text.startswith("("):
        below, text = _parenthesised(text)
        return {name: below}, text
    return {name: {}}, text


def _parenthesised(text: str) -> tuple[Mask, str]:
    below, text = _group(text[1:])
    if not text.startswith(")"):
        raise invalid("Invalid field selection: a parenthesis is not closed.", location="fields")
    return below, text[1:]
