"""The source's side of a comparison: which listed objects are the dataset's, under which path, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.keys import MAXIMUM_KEY_BYTES
from holdfast.engine.replication.plan.errors import PathsCollide
from holdfast.engine.replication.plan.filters import left_out, renamed, wave_of
from holdfast.engine.replication.plan.schema import (
    TEXT,
    Action,
    Reason,
    action_code,
    actions_of,
    in_order,
    reason_code,
    where,
)
from holdfast.engine.snapshot import keys

#: `objectstore.keys.check_key` as a regular expression of RE2.
_NOT_PLAIN = r"[\x00-\x1f\x7f\\]|(?:\A|/)\.{0,2}(?:/|\z)"


@dataclass(frozen=True)
class Part:
    """Some of the source's objects.

    ``members`` is the listing's rows with ``path``, ``young`` (held back unless known), ``plain`` (every backend keeps
    the path as it is) and ``wave``, by path. ``skipped`` are the others, as actions.
    """

    members: pa.Table
    skipped: pa.Table
    #: No path of a later part is as low as this; ``None``: there is no later part.
    until: str | None


class Source:
    """A listing of ``data/<folder>/``, as the policy reads it."""

    def __init__(self, listing: pa.Table, *, folder: str, policy: Sync, now: datetime) -> None:
        self._root = keys.data_folder(folder) + "/"
        self._policy, self._now = policy, now
        key = listing["key"]
        own, versions = pc.starts_with(key, self._root), pc.starts_with(key, f"{self._root}{keys.VERSIONS}/")
        #: The keys under ``.versions/``.
        self.inside: pa.ChunkedArray = key.filter(versions)
        self._own = in_order(where(pc.and_not(own, versions), listing), "key")

    def parts(self, rows: int) -> Iterator[Part]:
        """The objects in parts of so many rows, by path. Raises PathsCollide."""
        if self._policy.rename:  # paths are not in the order of the keys
            yield from self._renamed_parts(rows)
            return
        count = self._own.num_rows
        for begin in range(0, count, rows) or [0]:
            end = begin + rows
            until = None if end >= count else self._own["key"][end - 1].as_py()[len(self._root) :]
            members, skipped = self._told_apart(self._own.slice(begin, rows))
            yield Part(self._described(members), skipped, until)

    def _renamed_parts(self, rows: int) -> Iterator[Part]:
        members, skipped = self._told_apart(self._own)
        members = in_order(members, "path")
        _check_collisions(members)
        for begin in range(0, members.num_rows, rows) or [0]:
            end = begin + rows
            until = None if end >= members.num_rows else members["path"][end - 1].as_py()
            yield Part(self._described(members.slice(begin, rows)), skipped if begin == 0 else skipped[:0], until)

    def _told_apart(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The dataset's objects with ``path`` and ``young``, and the others as actions."""
        relative = pc.utf8_slice_codeunits(rows["key"], len(self._root))
        why = left_out(relative, rows["size_bytes"], rows["modified_at"], self._policy.filters, self._now)
        why = pc.if_else(_marker(relative, rows["size_bytes"]), reason_code(Reason.MARKER), why)
        young = pc.fill_null(pc.equal(why, reason_code(Reason.TOO_YOUNG)), False)
        belongs = pc.or_(pc.is_null(why), young)
        members = rows.append_column("path", renamed(relative, self._policy.rename)).append_column("young", young)
        if pc.all(belongs).as_py():
            return members, actions_of(members[:0])
        others = rows.append_column("path", relative).append_column("why", why).filter(pc.invert(belongs))
        return members.filter(belongs), actions_of(others, action=action_code(Action.SKIP), reason=others["why"])

    def _described(self, members: pa.Table) -> pa.Table:
        path = members["path"]
        too_long = pc.greater(pc.binary_length(path), MAXIMUM_KEY_BYTES - len(self._root.encode()))
        plain = pc.invert(pc.or_(pc.match_substring_regex(path, _NOT_PLAIN), too_long))
        return members.append_column("plain", plain).append_column("wave", wave_of(path, self._policy.last))


def _marker(relative: pa.ChunkedArray, size_bytes: pa.ChunkedArray) -> pa.ChunkedArray:
    empty = pc.and_(pc.ends_with(relative, "/"), pc.equal(size_bytes, 0))
    return pc.or_(empty, pc.equal(relative, pa.scalar("", TEXT)))


def _check_collisions(members: pa.Table) -> None:
    path = members["path"]
    at = pc.index(pc.equal(path[:-1], path[1:]), value=True).as_py() if len(path) > 1 else -1
    if at < 0:
        return
    one, other = (repr(members["key"][place].as_py()) for place in (at, at + 1))
    raise PathsCollide(
        f"two objects would get the path {path[at].as_py()!r}",
        where="sync.rename",
        expected="one object for each path",
        found=f"{one} and {other}",
        fix="Change `rename`, or leave one of them out with `filters.exclude`",
    )
