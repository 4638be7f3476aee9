"""Keys that obstore's paths cannot hold, put there by other tools: listed exactly, and nothing beside them is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from holdfast.engine.objectstore import ObjectStore, access_from_connection, open_store
from holdfast.engine.objectstore.errors import InvalidKey, ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectVersion
from holdfast.engine.objectstore.listing import list_table
from holdfast.engine.objectstore.pages import table_of

ODD = {
    "s3": ["f/a//b", "f/dots/./x", "f/dots/../y", "f/tab\there", "f/delete\x7f", "f/a+b c%41ü\x7f", "f//lead"],
    "gcs": ["f/a//b", "f/dots/./x", "f/tab\there", "f/delete\x7f", "f/a+b c%41ü\x7f", "f//lead"],
    "azure": ["f/a//b", "f/a+b c%41ü//", "f//lead"],
}
MARKERS = ["f/", "f/sub/", "f/sub/deep/"]
WITH_BYTES = ["f/trail/"]
PLAIN = ["b", "f-1", "f/a", "f/sub-1", "f/sub/x", "f/empty", "f/trail-1", "f/trail.1", "f/z"]

Put = Callable[[str, bytes], None]


@pytest.fixture(params=list(ODD))
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(cloud: str, sandbox: Any, contract: Any) -> Iterator[tuple[ObjectStore, Put]]:
    """A store under a fresh prefix, and a way to write there that lets every key through."""
    environ = sandbox.environment()
    site = contract.fresh(contract.site_of(cloud, environ))
    connection = contract.connection(environ, cloud)
    endpoint = access_from_connection(site, connection).endpoint
    store = open_store(cloud, site, connection, retry=None)
    if cloud == "s3":
        import boto3

        keys = {"aws_access_key_id": connection.login or "x", "aws_secret_access_key": connection.password or "x"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name=site.region, **keys)
        yield store, lambda key, data: client.put_object(Bucket=site.bucket, Key=f"{site.prefix}/{key}", Body=data)
    elif cloud == "gcs":
        url = f"{endpoint}/upload/storage/v1/b/{site.bucket}/o?uploadType=media&name={site.prefix}/"
        yield store, lambda key, data: httpx.post(url + quote(key, safe=""), content=data).raise_for_status()
    else:
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient(endpoint, credential=connection.password)
        yield store, lambda key, data: service.get_blob_client(site.bucket, f"{site.prefix}/{key}").upload_blob(data)


@pytest.mark.parametrize("page", [3, 1000])
def test_odd_keys_are_listed_as_they_are(cloud, opened, page, monkeypatch):
    for module in ("listing", "pages", "_listings", "parts._listed"):
        monkeypatch.setattr(f"holdfast.engine.objectstore.{module}.PAGE_OBJECTS", page)
    store, put = opened
    for key in [*PLAIN, *ODD[cloud]]:
        put(key, b"" if key == "f/empty" else b"x")
    for key in MARKERS:
        put(key, b"")
    # The folder's own marker may be left out: it is in no dataset.
    expected = sorted({*PLAIN, *ODD[cloud], *MARKERS} - {"f/"})
    for prefix in ("f/", "f", "f/a", "", "b"):
        wanted = [key for key in expected if key.startswith(prefix)]
        found = [info for info in store.list(prefix) if info.key != "f/"]
        assert [info.key for info in found] == wanted
        for threads in (1, 4):
            rows = list_table(store, prefix, threads=threads).to_pylist()
            assert [row for row in rows if row["key"] != "f/"] == table_of(found).to_pylist()
    for after in ("f/a", "f/a//b", "f/sub"):
        wanted = [key for key in expected if key.startswith("f/") and key > after]
        assert [info.key for info in store.list("f/", start_after=after)] == wanted


def test_facts_are_the_same_whoever_lists(cloud, opened):
    store, put = opened
    for key in PLAIN:
        put(key, key.encode())
    before = table_of(store.list("f/")).to_pylist()
    put(ODD[cloud][0], b"odd")
    after = [row for row in table_of(store.list("f/")).to_pylist() if row["key"] != ODD[cloud][0]]
    assert after == before
    for row in after:
        assert store.get(row["key"], if_match=ObjectVersion(row["e_tag"])) == row["key"].encode()


def test_a_listed_key_is_still_none_that_can_be_used(cloud, opened):
    store, put = opened
    put(ODD[cloud][0], b"odd")
    (info,) = store.list("f/")
    for use in (store.head, store.get, store.delete):
        with pytest.raises(InvalidKey):
            use(info.key)


def test_an_object_whose_key_ends_with_a_slash_is_named_once_it_was_not_found(cloud, opened):
    """It is shown without the slash at first; nobody can read that."""
    store, put = opened
    for key in [*PLAIN, *WITH_BYTES]:
        put(key, b"x")
    shown = [info for info in store.list("f/") if info.key.rstrip("/") == "f/trail"]
    for info in shown:
        if not info.key.endswith("/"):
            with pytest.raises(ObjectNotFound):
                store.get(info.key, if_match=info.version)
    assert [info.key for info in store.list("f/")] == sorted(key for key in [*PLAIN, *WITH_BYTES] if key[:2] == "f/")
