"""Who an event is about, and its OCSF columns with pseudonyms in the place of what names that subject.

Each pair of subject and value is looked at once: a column's rows only carry codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.privacy.keys import SubjectKey

#: The first of these that an event has is its subject. `user` is who logs in.
_SUBJECT = ("actor.user.uid", "actor.user.name", "user.uid", "user.name")
#: These name the subject, whatever they hold.
_NAMING = frozenset(
    [
        *(
            f"{user}.{name}"
            for user in ("actor.user", "user")
            for name in ("uid", "name", "email_addr", "credential_uid")
        ),
        "actor.session.uid",
        "src_endpoint.ip",
    ]
)
#: What these hold is looked for inside of other texts too.
_IDENTITIES = tuple(path for path in sorted(_NAMING) if path.endswith((".name", ".email_addr", "user.uid")))
#: These say where an event is from, never who did it.
_OF_THE_SOURCE = ("metadata.version", "metadata.product.", "metadata.log_name", "cloud.")
#: A name that is shorter is no text to look for inside of other texts.
_SHORTEST_INSIDE = 4


def subjects_of(table: pa.Table) -> pa.DictionaryArray:
    """Per event its subject, or null."""
    found = [_at(table, path) for path in _SUBJECT]
    known = [pc.if_else(pc.equal(one, ""), pa.scalar(None, pa.string()), one) for one in found]
    return pc.coalesce(*known).dictionary_encode()


def _at(table: pa.Table, path: str) -> pa.Array:
    first, *rest = path.split(".")
    column = table.column(first).combine_chunks()
    for name in rest:
        column = pc.struct_field(column, name)
    return column


def pseudonymise(table: pa.Table, subjects: pa.DictionaryArray, keys: Sequence[SubjectKey]) -> pa.Table:
    """The table with pseudonyms in the rows that have a subject.

    Columns that name the subject hold pseudonyms alone. What they held, and the subject, is looked for in every other
    text of the subject's rows, and replaced there too.

    Args:
        subjects: as `subjects_of` gave them.
        keys: of the dictionary's subjects, in order.
    """
    names: list[set[str]] = [{subject} for subject in subjects.dictionary.to_pylist()]
    values: list[set[str]] = [set() for _ in names]
    for path in sorted(_NAMING):
        for code, value in _pairs(subjects.indices, _at(table, path)):
            (names if path in _IDENTITIES else values)[code].add(value)
    replacing = [
        _Replacing(key, frozenset(found | more) - {""}, _longest_first(found))
        for key, found, more in zip(keys, names, values, strict=True)
    ]
    arrays = [
        _replaced(name, table.column(name).combine_chunks(), subjects.indices, replacing) for name in table.schema.names
    ]
    return pa.table(arrays, schema=table.schema)


@dataclass(frozen=True)
class _Replacing:
    """What becomes of one subject's values.

    Args:
        values: what names the subject where it is all of a text.
        names: what does so inside of one too, the longest first.
    """

    key: SubjectKey
    values: frozenset[str]
    names: Sequence[str]

    def replaced(self, value: str) -> str:
        if value in self.values:
            return self.key.pseudonym(value)
        for name in self.names:
            if name in value:
                value = value.replace(name, self.key.pseudonym(name))
        return value


def _longest_first(names: set[str]) -> list[str]:
    return sorted((name for name in names if len(name) >= _SHORTEST_INSIDE), key=lambda name: (-len(name), name))


def _pairs(codes: pa.Array, values: pa.Array) -> list[tuple[int, str]]:
    encoded = values.dictionary_encode()
    found = _joined(codes, encoded).unique().drop_null().to_pylist()
    texts = encoded.dictionary.to_pylist()
    return [(pair // len(texts), texts[pair % len(texts)]) for pair in found]


def _joined(codes: pa.Array, encoded: pa.DictionaryArray) -> pa.Array:
    """One number for each pair of subject and value; null where one of them is."""
    width = pa.scalar(max(len(encoded.dictionary), 1), pa.int64())
    return pc.add(pc.multiply(codes.cast(pa.int64()), width), encoded.indices.cast(pa.int64()))


def _replaced(path: str, column: pa.Array, codes: pa.Array, replacing: Sequence[_Replacing]) -> pa.Array:
    kind = column.type
    if path.startswith(_OF_THE_SOURCE):
        return column
    if pa.types.is_struct(kind):
        children = [
            _replaced(f"{path}.{child.name}", pc.struct_field(column, child.name), codes, replacing) for child in kind
        ]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
    if pa.types.is_list(kind):
        inner = _replaced(path, column.flatten(), codes.take(pc.list_parent_indices(column)), replacing)
        offsets = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0)).cast(pa.int32())
        starts = pa.concat_arrays([pa.array([0], pa.int32()), offsets])
        return pa.ListArray.from_arrays(starts, inner, type=kind, mask=column.is_null())
    return _texts(column, codes, replacing) if pa.types.is_string(kind) else column


def _texts(column: pa.Array, codes: pa.Array, replacing: Sequence[_Replacing]) -> pa.Array:
    encoded = column.dictionary_encode()
    joined = _joined(codes, encoded).dictionary_encode()
    pairs, texts = joined.dictionary.to_pylist(), encoded.dictionary.to_pylist()
    if not pairs:
        return column
    made = [replacing[pair // len(texts)].replaced(texts[pair % len(texts)]) for pair in pairs]
    values = pa.array(made, pa.string()).take(joined.indices)
    return pc.if_else(joined.is_valid(), values, column)
