"""Paths are data: what a backup calls its objects may not decide where on a machine they are written."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Iterable

from holdfast.engine.vault.errors import UnsafePath

_LONGEST_NAME_BYTES = 255


def why_unsafe(path: str) -> str | None:
    """Why a path may not be written below a folder, ``None`` when it may."""
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it holds a NUL"
    if path.startswith("/") or "\\" in path or (len(path) > 1 and path[1] == ":"):
        return "it is absolute, or would be on some system"
    parts = path.split("/")
    if ".." in parts or "." in parts or "" in parts:
        return "it has an empty part, `.` or `..`"
    if any(len(part.encode(errors="surrogatepass")) > _LONGEST_NAME_BYTES for part in parts):
        return f"a part of it is longer than {_LONGEST_NAME_BYTES} bytes"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "it is no valid text"
    return None


def check_paths(paths: Iterable[str], *, folds_case: bool = True) -> None:
    """Refuse a set of paths that cannot be restored side by side.

    Args:
        folds_case: the target may take ``A`` and ``a``, or two spellings of ``é``, for one.

    Raises:
        UnsafePath: one of them would leave the target, two would be one, or one is a folder of another.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        reason = why_unsafe(path)
        if reason is not None:
            raise UnsafePath(
                "the backup holds a path that is not safe to restore",
                where=repr(path),
                expected="a relative path inside the target",
                found=reason,
                fix="Restore the others with `--path` or `--pattern`; nothing was written",
            )
        folded = _folded(path) if folds_case else path
        if folded in seen:
            raise _collide(path, seen[folded])
        seen[folded] = path
        parts = folded.split("/")
        for number in range(1, len(parts)):
            folders.setdefault("/".join(parts[:number]), path)
    for folded, path in seen.items():
        if folded in folders:
            raise _collide(folders[folded], path)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _collide(path: str, other: str) -> UnsafePath:
    return UnsafePath(
        "two paths of the backup would be one at the target",
        where=repr(path),
        expected="paths that differ by more than case or spelling",
        found=repr(other),
        fix="Restore them one after the other with `--path` into different targets; nothing was written",
    )


def chosen(path: str, *, paths: tuple[str, ...] = (), patterns: tuple[str, ...] = ()) -> bool:
    """Whether a path is wanted: it is, or lies below, one of ``paths``, or matches a shell pattern. None given: yes."""
    if not paths and not patterns:
        return True
    below = any(path == wanted.rstrip("/") or path.startswith(wanted.rstrip("/") + "/") for wanted in paths)
    return below or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
