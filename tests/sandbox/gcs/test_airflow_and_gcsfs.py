"""Airflow's GCSHook and gcsfs, pointed at the server as the package's docstring says."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


@pytest.fixture
def hook(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("airflow.providers.google.cloud.hooks.gcs")
    from airflow.providers.google.cloud.hooks.gcs import GCSHook

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    connection = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "p"}}
    monkeypatch.setenv("AIRFLOW_CONN_SANDBOX_GCS", json.dumps(connection))
    return GCSHook(gcp_conn_id="sandbox_gcs")


def test_the_hook_uploads_lists_copies_and_deletes(hook: Any, bucket: str, tmp_path: Any) -> None:
    hook.create_bucket(bucket_name=f"{bucket}-h", location="EU", labels={"a": "b"})
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    hook.upload(bucket_name=bucket, object_name="d/f", filename=str(tmp_path / "f"), metadata={"k": "v"})
    hook.upload(bucket_name=bucket, object_name="d/chunked", data=data, chunk_size=256 * 1024)
    assert hook.exists(bucket_name=bucket, object_name="d/f")
    assert hook.download(bucket_name=bucket, object_name="d/chunked") == data
    assert hook.get_size(bucket_name=bucket, object_name="d/f") == 300_000
    assert hook.get_md5hash(bucket, "d/f") == hook.get_md5hash(bucket, "d/chunked")
    assert hook.get_crc32c(bucket, "d/f") == hook.get_crc32c(bucket, "d/chunked")
    assert hook.get_metadata(bucket_name=bucket, object_name="d/f") == {"k": "v"}
    assert hook.list(bucket_name=bucket, prefix="d/") == ["d/chunked", "d/f"]
    assert hook.list(bucket_name=bucket, match_glob="**/f") == ["d/f"]
    hook.compose(bucket_name=bucket, source_objects=["d/f", "d/chunked"], destination_object="both")
    assert hook.download(bucket_name=bucket, object_name="both") == data + data
    hook.copy(bucket, "d/f", f"{bucket}-h", "copied")
    hook.rewrite(bucket, "d/f", f"{bucket}-h", "rewritten")
    hook.sync(source_bucket=bucket, destination_bucket=f"{bucket}-h", destination_object="synced/", recursive=True)
    assert hook.list(bucket_name=f"{bucket}-h", prefix="synced/") != []
    hook.delete(bucket_name=bucket, object_name="d/f")
    assert not hook.exists(bucket_name=bucket, object_name="d/f")
    hook.delete_bucket(bucket_name=f"{bucket}-h", force=True)


def test_the_hook_passes_a_missing_bucket_on(hook: Any) -> None:
    from google.api_core.exceptions import NotFound

    with pytest.raises(NotFound):
        hook.upload(bucket_name="no-such-bucket", object_name="k", data=b"1", num_max_attempts=1)


@pytest.fixture
def files(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import gcsfs

    return gcsfs.GCSFileSystem(project="p", token="anon", endpoint_url=server.url, skip_instance_cache=True)


def test_gcsfs_reads_writes_and_lists(files: Any, bucket: str) -> None:
    data = os.urandom(700_000)
    files.pipe(f"{bucket}/d/small", b"hello")
    with files.open(f"{bucket}/d/streamed", "wb", block_size=256 * 1024) as out:
        for start in range(0, len(data), 100_000):
            out.write(data[start : start + 100_000])
    assert files.cat(f"{bucket}/d/streamed") == data
    assert files.cat_file(f"{bucket}/d/streamed", start=5, end=10) == data[5:10]
    assert sorted(files.ls(f"{bucket}/d")) == [f"{bucket}/d/small", f"{bucket}/d/streamed"]
    assert files.info(f"{bucket}/d/small")["size"] == 5
    files.cp_file(f"{bucket}/d/small", f"{bucket}/copied")
    files.mv(f"{bucket}/copied", f"{bucket}/moved")
    files.setxattrs(f"{bucket}/moved", k="v")
    assert files.getxattr(f"{bucket}/moved", "k") == "v"
    files.rm(f"{bucket}/d", recursive=True)
    assert files.find(bucket) == [f"{bucket}/moved"]
    with pytest.raises(FileNotFoundError):
        files.cat(f"{bucket}/d/small")
