"""Parts in a local folder: what lies there meanwhile, and what a folder cannot hold."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.objectstore import CREATE, OVERWRITE, PutMode, local_store
from holdfast.engine.objectstore.checksums import Checksums
from holdfast.engine.objectstore.errors import BucketNotFound, ObjectStoreError, UploadGone
from holdfast.engine.objectstore.parts import PartStore, Upload, part_store, sweep_uploads

DATA = b"0123456789"


def parts_of(folder: Path, prefix: str = "") -> PartStore:
    found = part_store(local_store("local", folder, prefix=prefix))
    assert found is not None
    return found


def written(parts: PartStore, key: str, mode: PutMode = CREATE) -> None:
    upload = parts.begin(key, size_bytes=10, mode=mode)
    part = parts.put_part(upload, 1, DATA, checksums=Checksums.of(DATA))
    parts.complete(upload, [part], size_bytes=10, checksums=Checksums.of(DATA), mode=mode)


def test_nothing_but_the_object_is_left(tmp_path: Path) -> None:
    written(parts_of(tmp_path), "folder/key")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/key"]


@pytest.mark.parametrize("mode", [CREATE, OVERWRITE])
def test_a_name_the_store_cannot_show_is_refused(tmp_path: Path, mode: PutMode) -> None:
    with pytest.raises(ObjectStoreError):
        written(parts_of(tmp_path), "key#1", mode)


@pytest.mark.parametrize("mode", [CREATE, OVERWRITE])
def test_a_key_under_an_object_is_refused_as_such(tmp_path: Path, mode: PutMode) -> None:
    parts = parts_of(tmp_path)
    written(parts, "a")
    with pytest.raises(ObjectStoreError):
        written(parts, "a/b", mode)
    assert (tmp_path / "a").read_bytes() == DATA


def test_uploads_of_another_prefix_are_not_seen(tmp_path: Path) -> None:
    one, other = parts_of(tmp_path, "one"), parts_of(tmp_path, "other")
    upload = one.begin("key", size_bytes=10)
    assert [found.key for found in one.uploads()] == ["key"]
    assert list(other.uploads()) == []
    with pytest.raises(UploadGone):
        other.parts(upload)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    upload = parts.begin("key", size_bytes=10)
    parts.put_part(upload, 1, DATA, checksums=Checksums.of(DATA))
    (tmp_path / ".holdfast-uploads" / upload.upload_id / "half-written#1").write_bytes(b"x")
    store = local_store("local", tmp_path)
    later = FakeClock(SystemClock().now() + timedelta(days=2))
    assert sweep_uploads(store, older_than_seconds=86400, clock=later) == [upload]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("upload_id", ["../../etc", "", ".", "a/b"])
def test_an_id_that_is_a_path_names_no_upload(tmp_path: Path, upload_id: str) -> None:
    parts = parts_of(tmp_path)
    with pytest.raises(UploadGone):
        parts.parts(Upload("key", upload_id, SystemClock().now()))
    parts.abort(Upload("key", upload_id, SystemClock().now()))
    assert tmp_path.is_dir()


def test_a_missing_folder_is_a_missing_bucket(tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound):
        parts_of(tmp_path / "missing").begin("key", size_bytes=10)
