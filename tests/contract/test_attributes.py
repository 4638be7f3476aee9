"""What objects say of themselves, on every backend."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore import (
    CREATE,
    ByteRange,
    ObjectStore,
    RetryingStore,
    access_from_connection,
    memory_store,
    open_store,
)
from holdfast.engine.objectstore.attribute_mapping import map_attributes
from holdfast.engine.objectstore.attribute_reading import read_attributes, with_class_and_tags
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import (
    InvalidAttributes,
    NotSupported,
    ObjectArchived,
    ObjectExists,
    PreconditionFailed,
)
from holdfast.errors import ConfigError

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
LARGE = bytes(range(256)) * (4 * 9 * 1024)
SAID = Attributes(
    content_type="text/csv",
    cache_control="max-age=60, private",
    content_disposition='attachment; filename="x.csv"',
    content_language="de",
    metadata={"colour": "blue", "empty_not": "=?UTF-8?Q?=C3=BC?="},
)
DIRECT = {"s3-direct": Cloud.AWS, "gcs-direct": Cloud.GCP, "azure-direct": Cloud.AZURE}


def test_attributes_come_back_with_every_kind_of_read(store: ObjectStore) -> None:
    if not store.capabilities().metadata:
        with pytest.raises(NotSupported, match="keeps no attributes"):
            store.put("x", b"x", attributes=SAID)
        return
    for key, data in (("empty", b""), ("small", b"x"), ("large", iter([LARGE]))):
        store.put(key, data, attributes=SAID)
        assert store.open(key).attributes == SAID
        assert store.open(key, size_bytes=1).attributes == SAID
        assert store.open(key, if_match=store.head(key).version).attributes == SAID


def test_bytes_stored_with_an_encoding_come_as_they_are_stored(store: ObjectStore) -> None:
    """Google Cloud inflates them on the way out for clients that do not say they take gzip."""
    if not store.capabilities().metadata:
        pytest.skip("keeps no attributes, as its capabilities say")
    body = gzip.compress(b"a,b\n1,2\n" * 1000, mtime=0)
    for data in (body, iter([body])):
        store.put("x", data, attributes=Attributes(content_type="text/csv", content_encoding="gzip"))
        info = store.head("x")
        assert info.size_bytes == len(body)
        reader = store.open("x", if_match=info.version)
        assert (b"".join(reader), reader.attributes.content_encoding) == (body, "gzip")
        assert store.get("x", byte_range=ByteRange(10, 30)) == body[10:30]


@pytest.mark.parametrize("backend", DIRECT)
def test_what_a_cloud_would_change_or_drop_is_refused_before_it_is_asked(
    backend: str, open_backend: Callable[[str], ObjectStore]
) -> None:
    store, cloud = open_backend(backend), DIRECT[backend]
    wrong = [
        Attributes(metadata={"Upper": "x"}),
        Attributes(metadata={"a": "ä"}),
        Attributes(metadata={"a": " x"}),
        Attributes(metadata={"a": "x" * 9000}),
        Attributes(content_disposition="attachment; filename=ä"),
        Attributes(storage_class="TEPID"),
        Attributes(tags={"a" * 129: "x"}),
    ]
    wrong += [Attributes(metadata={"a-b": "x"})] if cloud is Cloud.AZURE else []
    wrong += (
        [Attributes(tags={"a": "x"})] if cloud is Cloud.GCP else [Attributes(tags={str(n): "x" for n in range(11)})]
    )
    for attributes in wrong:
        with pytest.raises(InvalidAttributes, match="map_attributes"):
            store.put("x", b"x", attributes=attributes)


@pytest.mark.parametrize("backend", DIRECT)
@pytest.mark.parametrize("source", [Cloud.AWS, Cloud.GCP, Cloud.AZURE])
def test_mapped_attributes_are_taken_and_come_back(
    backend: str, source: Cloud, open_backend: Callable[[str], ObjectStore]
) -> None:
    store, cloud = open_backend(backend), DIRECT[backend]
    awkward = replace(SAID, metadata={"a-b": "1", "c.d": "2", "9": "x", "long": "y" * 9000, "ü": "z"})
    mapped, losses = map_attributes(awkward, source, cloud)
    assert any("metadata long" in loss for loss in losses)
    assert any("metadata ü" in loss for loss in losses)
    store.put("x", b"x", attributes=mapped)
    assert store.open("x").attributes == mapped


def test_s3_keeps_class_tags_and_key(sandbox: Any, contract: Any) -> None:
    import boto3

    environ = sandbox.environment("aws-eu-west-1")
    site = contract.fresh(contract.site_of("s3", environ, kms_key=KEY))
    connection = contract.connection(environ, "s3")
    store = open_store("s3", site, connection, retry=None)
    client = boto3.client(
        "s3",
        endpoint_url=access_from_connection(site, connection).endpoint,
        region_name=site.region,
        aws_access_key_id=connection.login or "x",
        aws_secret_access_key=connection.password or "x",
    )
    said = Attributes(storage_class="STANDARD_IA", tags={"owner": "team a", "x": ""})
    for key, data in (("small", b"x"), ("large", iter([LARGE]))):
        store.put(key, data, attributes=said)
        where = {"Bucket": site.bucket, "Key": f"{site.prefix}/{key}"}
        head = client.head_object(**where)
        assert head["StorageClass"] == "STANDARD_IA"
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KEY)
        tags = {tag["Key"]: tag["Value"] for tag in client.get_object_tagging(**where)["TagSet"]}
        assert tags == said.tags
    client.put_object(Bucket=site.bucket, Key=f"{site.prefix}/cold", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(ObjectArchived, match="Restore"):
        store.get("cold")


def test_azure_keeps_tier_and_tags(sandbox: Any, contract: Any) -> None:
    from azure.storage.blob import BlobServiceClient

    environ = sandbox.environment("azure-westeurope")
    site = contract.fresh(contract.site_of("azure", environ))
    connection = contract.connection(environ, "azure")
    store = open_store("azure", site, connection, retry=None)
    endpoint = access_from_connection(site, connection).endpoint
    service = BlobServiceClient(endpoint, credential=connection.password)
    said = Attributes(storage_class="Cool", tags={"owner": "team a", "x": ""})
    for key, data in (("small", b"x"), ("large", iter([LARGE]))):
        store.put(key, data, attributes=said)
        blob = service.get_blob_client(site.bucket, f"{site.prefix}/{key}")
        assert (blob.get_blob_properties().blob_tier, blob.get_blob_tags()) == ("Cool", said.tags)
    blob.set_standard_blob_tier("Archive")
    with pytest.raises(ObjectArchived, match="rehydrate"):
        store.get("large")


@pytest.mark.parametrize("name", ["gcs", "azure"])
def test_a_key_that_cannot_be_asked_for_is_refused_at_once(name: str, sandbox: Any, contract: Any) -> None:
    environ = sandbox.environment()
    site = contract.site_of(name, environ, kms_key="some-key")
    with pytest.raises(ConfigError, match="default"):
        open_store(name, site, contract.connection(environ, name))


def test_s3_checks_a_crc_in_place_of_a_signature_where_the_connection_says_so(sandbox: Any, contract: Any) -> None:
    environ = sandbox.environment("aws-eu-west-1")
    site = contract.fresh(contract.site_of("s3", environ))
    connection = contract.connection(environ, "s3")
    connection = connection.model_copy(update={"extra": {**connection.extra, "unsigned_payload": True}})
    store = open_store("s3", site, connection, retry=None)
    for key, data, expected in (("small", b"x", b"x"), ("large", iter([LARGE]), LARGE)):
        store.put(key, data)
        assert store.get(key) == expected
    with pytest.raises(ObjectExists):
        store.put("small", b"y", mode=CREATE)


@pytest.mark.parametrize(
    ("backend", "storage_class"), list(zip(DIRECT, ("STANDARD_IA", "NEARLINE", "Cool"), strict=True))
)
def test_class_and_tags_are_read_when_they_are_asked_for(
    backend: str, storage_class: str, open_backend: Callable[[str], ObjectStore]
) -> None:
    store = RetryingStore(open_backend(backend))
    tags = {} if DIRECT[backend] is Cloud.GCP else {"owner": "team a", "x": ""}
    said = replace(SAID, storage_class=storage_class, tags=tags)
    store.put("x", b"x", attributes=said)
    assert read_attributes(store, "x") == said
    store.put("plain", b"other")
    assert not read_attributes(store, "plain").tags
    with pytest.raises(PreconditionFailed):
        with_class_and_tags(store, "x", store.head("plain").version, SAID)


def test_what_is_not_told_is_left_as_it_was() -> None:
    store = memory_store()
    store.put("x", b"x", attributes=SAID)
    assert read_attributes(store, "x") == SAID
