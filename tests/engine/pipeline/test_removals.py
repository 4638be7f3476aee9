"""Deletes after a sync: only where the policy has them on, the source is healthy and a person agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from folders import FolderRuntime, folder_runtime, make_folders
from holdfast.engine.pipeline import removals, sync


def make(folder: Path, **deletes: Any) -> FolderRuntime:
    """Thirty objects at every site."""
    policy = {"enabled": True, "delay_seconds": 0, **deletes}
    runtime = folder_runtime(make_folders(folder, prices={"sync": {"deletes": policy}}))
    (folder / "site-a" / "data" / "prices").mkdir(parents=True)
    for number in range(30):
        (folder / "site-a" / "data" / "prices" / f"part-{number:02}.bin").write_bytes(b"bytes %d" % number)
    sync.run(runtime, "desk", "prices")
    return runtime


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detection rules call the source healthy: folders send no heartbeats."""
    monkeypatch.setattr(removals, "_is_healthy", lambda *_arguments: True)


def leave(folder: Path, runtime: FolderRuntime, *numbers: int) -> None:
    """Have objects leave the source, and sync."""
    for number in numbers:
        (folder / "site-a" / "data" / "prices" / f"part-{number:02}.bin").unlink()
    assert sync.run(runtime, "desk", "prices").record is not None


def clean(runtime: FolderRuntime, **kwargs: Any) -> dict[str, removals.Cleaned]:
    return {one.site: one for one in removals.clean(runtime, "desk", "prices", **kwargs)}


def test_deletes_that_are_off_do_nothing(tmp_path: Path, healthy: None) -> None:
    runtime = make(tmp_path, enabled=False)
    leave(tmp_path, runtime, 3)
    assert clean(runtime) == {}


def test_what_left_is_marked_at_every_replica_and_bytes_a_snapshot_needs_stay(tmp_path: Path, healthy: None) -> None:
    runtime = make(tmp_path)
    leave(tmp_path, runtime, 3)
    found = clean(runtime)
    assert {site: (one.marked_objects, one.refused) for site, one in found.items()} == {
        "site-b": (1, None),
        "site-c": (1, None),
    }
    # The snapshot before names it, and every snapshot is kept.
    assert {one.removed_objects for one in found.values()} == {0}
    assert {one.still_needed_objects for one in found.values()} == {1}


@pytest.mark.parametrize(("verdict", "why"), [(None, "health is not known"), (False, "not healthy")])
def test_a_source_that_is_not_known_to_be_healthy_has_nothing_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: bool | None, why: str
) -> None:
    monkeypatch.setattr(removals, "_is_healthy", lambda *_arguments: verdict)
    runtime = make(tmp_path)
    leave(tmp_path, runtime, 3)
    assert all(why in str(one.refused) and one.marked_objects == 0 for one in clean(runtime).values())


def test_the_groups_own_rules_say_whether_the_source_is_healthy(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    leave(tmp_path, runtime, 3)
    assert removals._is_healthy(runtime, "desk", "site-a") is True
    assert {one.marked_objects for one in clean(runtime).values()} == {1}


def test_a_listing_that_looks_cut_off_has_nothing_marked_also_after_the_next_one(tmp_path: Path, healthy: None) -> None:
    runtime = make(tmp_path, delay_seconds=3600, most_share=1)
    leave(tmp_path, runtime, *range(15, 30))  # its tail is gone
    assert all("truncated" in str(one.refused) for one in clean(runtime).values())
    leave(tmp_path, runtime, 2)
    assert all("truncated" in str(one.refused) for one in clean(runtime).values())


def test_more_than_the_policy_lets_pass_waits_for_exactly_that_approval(tmp_path: Path, healthy: None) -> None:
    runtime = make(tmp_path, most_objects=2)
    leave(tmp_path, runtime, 3, 4, 5)
    waiting = clean(runtime)["site-b"]
    assert waiting.approval_id is not None
    assert waiting.marked_objects == 0
    assert clean(runtime, approve="0" * 16)["site-b"].marked_objects == 0
    assert clean(runtime, approve=waiting.approval_id)["site-b"].marked_objects == 3
