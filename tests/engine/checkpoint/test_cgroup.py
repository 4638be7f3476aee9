"""What a container may still use, from the kernel's files as they look in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine.checkpoint import restore
from holdfast.engine.checkpoint.cgroup import memory_left_bytes


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def group(root: Path, path: str, most: str, used: int, cache: int = 0) -> None:
    put(root, f"sys/fs/cgroup{path}/memory.max", f"{most}\n")
    put(root, f"sys/fs/cgroup{path}/memory.current", f"{used}\n")
    put(root, f"sys/fs/cgroup{path}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 9\n")


def test_the_tightest_group_up_to_the_root_counts_and_cache_is_free(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/pod/container\n")
    group(tmp_path, "/pod/container", "max", 100)
    group(tmp_path, "/pod", "1000", 700, cache=200)
    assert memory_left_bytes(tmp_path) == 500
    group(tmp_path, "/pod/container", "400", 100)
    assert memory_left_bytes(tmp_path) == 300
    group(tmp_path, "/pod/container", "400", 500)
    assert memory_left_bytes(tmp_path) == 0


def test_inside_a_container_the_groups_root_is_its_own(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/../../elsewhere\n")
    group(tmp_path, "", "2000", 500)
    assert memory_left_bytes(tmp_path) == 1500


def test_version_one_and_a_path_of_the_host(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "900\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", "600\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n")
    assert memory_left_bytes(tmp_path) == 350


def test_without_a_limit_or_without_groups_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert memory_left_bytes(tmp_path) is None
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    assert memory_left_bytes(tmp_path) is None


def test_a_restore_keeps_no_more_than_half_of_what_the_container_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "memory_left_bytes", lambda: 1000)
    assert restore.spare_memory_bytes() == 500
    monkeypatch.setattr(restore, "memory_left_bytes", lambda: None)
    assert restore.spare_memory_bytes() > 500
