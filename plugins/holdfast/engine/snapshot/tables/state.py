"""What is known of one table's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from holdfast.engine.snapshot.errors import SnapshotError


class TableDamaged(SnapshotError):
    """A table's log cannot be read, or no version of it is whole."""


@dataclass(frozen=True)
class TableState:
    """The newest whole version of one table. Paths are relative to the dataset's folder."""

    format: Literal["delta", "iceberg"]
    #: The table's folder, empty when it is the dataset's.
    root: str
    version: int
    #: Data (and delete) files the version names; a reader of this version needs them all.
    data: frozenset[str]
    #: Log and metadata files up to this version.
    metadata: frozenset[str]
    #: What says which version is newest; a reader does without.
    pointers: frozenset[str]
    #: Metadata of newer versions that are not whole: left out of a snapshot that holds whole versions only.
    torn: frozenset[str] = frozenset()
    #: What the torn versions name and is not there.
    missing: tuple[str, ...] = ()
    torn_version: int | None = None
    #: Data of older versions that is not there; time travel to them fails, the newest version does not.
    missing_history: tuple[str, ...] = ()
    #: Names in the metadata that hold only where the table was written (absolute URIs), a few of them.
    absolute: tuple[str, ...] = ()
    #: Files that mark single rows as deleted.
    row_deletes: int = 0

    @property
    def prefix(self) -> str:
        return f"{self.root}/" if self.root else ""

    @property
    def is_whole(self) -> bool:
        """Whether the newest version is the one chosen: nothing newer is torn."""
        return self.torn_version is None

    @property
    def readable_elsewhere(self) -> bool:
        """Whether a copy of the files is a readable table without rewriting its metadata."""
        return not self.absolute

    @property
    def problem(self) -> str | None:
        """What a person should know, in one sentence."""
        where = self.root or "the dataset's root"
        if self.torn_version is not None:
            return (
                f"{where}: version {self.torn_version} names {len(self.missing)} files that are not there "
                f"(first: {self.missing[0] if self.missing else 'its own log'}); version {self.version} is whole"
            )
        if self.absolute:
            return f"{where}: not readable at the target without rewrite, its metadata names {self.absolute[0]}"
        return None

    def consistent(self, paths: Iterable[str]) -> list[str]:
        """Of these files of the table those a snapshot should hold: all but metadata of torn versions.

        Data that the chosen version does not name is kept, for time travel; no version that is whole needs less.
        """
        return [path for path in paths if path not in self.torn]
