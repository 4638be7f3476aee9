"""Reading a snapshot that is taken and not published yet: from where its objects landed, else from the source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa

from holdfast.engine.objectstore.interface import ObjectStore, ObjectVersion
from holdfast.engine.replication.errors import SourceChanged
from holdfast.engine.replication.target import Target
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.errors import NotInSnapshot
from holdfast.errors import HoldfastError


class DraftReader:
    """Reads objects of a draft, whole and checked.

    Args:
        chosen: the draft: schema `STATE`, sorted by path.
        targets: where it has landed.
    """

    def __init__(self, chosen: pa.Table, source: ObjectStore, targets: Sequence[Target]) -> None:
        self._source, self._targets, self._chosen = source, targets, chosen
        self._rows: dict[str, int] | None = None

    def read(self, path: str) -> bytes:
        """One object's bytes.

        Raises:
            NotInSnapshot: the draft has no such path.
            SourceChanged: its bytes are nowhere any more.
        """
        if self._rows is None:
            self._rows = {known: row for row, known in enumerate(self._chosen["path"].to_pylist())}
        if path not in self._rows:
            raise NotInSnapshot(
                "the draft has no such object",
                where=path,
                expected=f"one of its {self._chosen.num_rows} paths",
                found=repr(path),
            )
        row = self._chosen.slice(self._rows[path], 1).to_pylist()[0]
        for target in self._targets:
            with suppress(HoldfastError):
                data = target.read(path, row["digest"])
                if data is not None:
                    return data
        named = row["e_tag"] is not None or row["version"] is not None
        data = self._source.get(row["key"], if_match=ObjectVersion(row["e_tag"], row["version"]) if named else None)
        if digest_of(data) == row["digest"]:
            return data
        raise SourceChanged(
            "the object is not as it was taken any more",
            where=f"{self._source.name}: {row['key']}",
            expected=row["digest"],
            found=digest_of(data),
            fix="Sync again; nothing was published",
        )
