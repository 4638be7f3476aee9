"""How much memory the control group of this process still allows: a container's limit is not the machine's memory.

Version 2 as the kernel's cgroup-v2.rst has it, version 1 as cgroup-v1/memory.rst has it. Every group up to the root
counts. Of what is in use, the file cache that the kernel gives back first counts as free.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

#: By version: where it is mounted, and its files for the limit, the use, and the member of ``memory.stat``.
_FILES = {
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def memory_left_bytes(root: Path = Path("/")) -> int | None:
    """What may still be used before the tightest limit, in bytes; None: there is none, or this system has no groups.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    left = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else None
        if version is not None:
            left += _left_in(root, version, PurePosixPath(path))
    return min(left, default=None)


def _left_in(root: Path, version: int, path: PurePosixPath) -> list[int]:
    """Of the group and those above it. One that is not there is another namespace's: its root is then ours."""
    mount, limit, used, cache = _FILES[version]
    found = []
    for group in (path, *path.parents):
        folder = root / mount / str(group).lstrip("/")
        try:
            most = int((folder / limit).read_text(encoding="utf-8"))
            now = int((folder / used).read_text(encoding="utf-8"))
            found.append(max(0, most - now + _stat(folder, cache)))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return found


def _stat(folder: Path, member: str) -> int:
    for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(" ")
        if name == member:
            return int(value)
    return 0
