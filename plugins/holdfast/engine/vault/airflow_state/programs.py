"""PostgreSQL's programs on this machine."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.vault.errors import MissingProgram

#: Where distributions keep each major version's programs; newer ones read and dump older servers.
_VERSIONED = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)


@dataclass(frozen=True)
class PostgresPrograms:
    """The folder of one version's programs. ``None``: whatever is on the ``PATH``."""

    folder: Path | None = None

    def __call__(self, name: str) -> Path:
        """The path of a program. Raises MissingProgram."""
        found = self.folder / name if self.folder is not None else Path(shutil.which(name) or "")
        if not found.is_file():
            raise MissingProgram(
                "a program of PostgreSQL is not installed",
                where=str(self.folder or "PATH"),
                expected=name,
                found="nothing",
                fix="Install PostgreSQL's client programs (Debian: postgresql-client; for a drill, postgresql)",
            )
        return found

    def has(self, name: str) -> bool:
        try:
            return bool(self(name))
        except MissingProgram:
            return False


def find_programs(folder: Path | None = None) -> PostgresPrograms:
    """The programs in a folder, or the newest version's that is installed, or those on the ``PATH``."""
    if folder is not None:
        return PostgresPrograms(folder)
    found = [
        place for root, pattern in _VERSIONED for place in Path(root).glob(pattern) if (place / "pg_dump").is_file()
    ]
    return PostgresPrograms(max(found, key=_version, default=None))


def _version(folder: Path) -> int:
    return int((re.findall(r"\d+", folder.parent.name) or ["0"])[0])
