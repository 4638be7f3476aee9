"""The tags of a line, however its cloud writes them, as one map per line.

JSON text (Azure, CSV files), a Parquet map (AWS), or a list of key and value (BigQuery).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.cost import columns

Refuse = Callable[[int, str], Exception]


def normalised_tags(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    """The tags as maps.

    Args:
        refuse: makes the error of a row (from 0) whose tags cannot be read.
    """
    kind = values.type
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(values), columns.TAGS)])
    if pa.types.is_map(kind):
        return pc.cast(values, columns.TAGS)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.chunked_array([_from_pairs(chunk) for chunk in values.chunks], columns.TAGS)
    return _from_text(pc.cast(values, pa.string()), refuse)


def _from_pairs(values: Any) -> Any:
    flat = values.flatten()
    lengths = pc.fill_null(pc.list_value_length(values), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cast(pc.cumulative_sum(lengths), pa.int32())])
    keys, items = (pc.cast(flat.field(name), pa.string()) for name in ("key", "value"))
    return pa.MapArray.from_arrays(offsets, keys, items)


def _from_text(values: pa.ChunkedArray, refuse: Refuse) -> pa.ChunkedArray:
    """Each different text is parsed once: a bill repeats the tags of a resource in every hour."""
    encoded = pc.dictionary_encode(values)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks() if encoded.num_chunks != 1 else encoded.chunk(0)
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0)
    maps: list[list[tuple[str, str | None]] | None] = []
    for text in encoded.dictionary.to_pylist():
        parsed = _parsed(text)
        if parsed is None:
            raise refuse(pc.index(values, pa.scalar(text)).as_py(), text)
        maps.append(sorted(parsed.items()))
    return pa.chunked_array([pa.array(maps, columns.TAGS).take(encoded.indices)])


def _parsed(text: str) -> dict[str, str | None] | None:
    """``{"name": "value"}``, a list of such pairs, or Azure's older form without the braces."""
    for candidate in (text, "{" + text + "}"):
        try:
            found = json.loads(candidate)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, list) and all(isinstance(one, dict) and "key" in one for one in found):
            found = {str(one["key"]): one.get("value") for one in found}
        if isinstance(found, dict) and not any(isinstance(value, dict | list) for value in found.values()):
            return {str(key): None if value is None else _text(value) for key, value in found.items()}
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain_names(names: Any) -> Any:
    """Lower case, without a cloud's own ``user:`` before it, and ``:``, ``_`` and ``-`` as one."""
    lowered = pc.replace_substring_regex(pc.utf8_lower(names), r"^(user|usertag|labels?)[:_/]", "")
    return pc.replace_substring_regex(lowered, "[:_/-]+", "-")


def tag_values(tags: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Per line the value of the first of these tags that it carries, null where it carries none."""
    wanted = [name.as_py() for name in _plain_names(pa.array(names, pa.string()))]
    return pa.chunked_array([_in_chunk(chunk, wanted) for chunk in tags.chunks], pa.string())


def _in_chunk(tags: Any, wanted: Sequence[str]) -> Any:
    keys = _plain_names(tags.keys)
    plain = pa.MapArray.from_arrays(tags.offsets, keys, tags.items)
    found = [pc.map_lookup(plain, pa.scalar(name), "first") for name in dict.fromkeys(wanted)]
    values = pc.coalesce(*found) if len(found) > 1 else found[0]
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), pa.scalar(None, pa.string()), values)
