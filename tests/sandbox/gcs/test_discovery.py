"""The server's methods and parameters against Google's description; and that the comparison can fail."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from holdfast.sandbox.gcs.bucket_resource import NOT_IMPLEMENTED as BUCKET_NOT_IMPLEMENTED
from holdfast.sandbox.gcs.bucket_resource import SET_BY_SERVER as BUCKET_SET_BY_SERVER
from holdfast.sandbox.gcs.bucket_resource import SETTABLE as BUCKET_SETTABLE
from holdfast.sandbox.gcs.methods import COMMON, METHODS, Method
from holdfast.sandbox.gcs.object_resource import NOT_IMPLEMENTED, SET_BY_SERVER, SETTABLE
from sandbox.gcs.discovery import Exchange, document, methods, query_parameters


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_each_method_is_googles_with_every_parameter_accounted_for(method: Method) -> None:
    theirs = methods()[method.id]
    assert (method.verb, method.template) == (theirs["httpMethod"], theirs["path"])
    assert method.honoured | method.refused | COMMON == query_parameters(theirs) | {"projection", "userProject"}
    assert not method.honoured & method.refused


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Object", {*SETTABLE, *SET_BY_SERVER, *NOT_IMPLEMENTED}),
        ("Bucket", {*BUCKET_SETTABLE, *BUCKET_SET_BY_SERVER, *BUCKET_NOT_IMPLEMENTED}),
    ],
)
def test_every_field_of_googles_resources_is_accounted_for(name: str, known: set[str]) -> None:
    # "project" and "bucketPolicyOnly" are not in the document, but old clients send them.
    assert known - {"project"} == set(document()["schemas"][name]["properties"])


def test_every_method_was_seen_and_allowed(server: Any, bucket: str) -> None:
    """A tour of all methods, so that the recorder's silence means something."""
    with httpx.Client(base_url=f"{server.url}/storage/v1") as http:

        def call(verb: str, path: str, body: Any = None, **params: Any) -> Any:
            answer = http.request(verb, path, json=body, params=params)
            assert answer.status_code < 300, answer.text
            return answer.json() if answer.content else None

        upload = {"uploadType": "media", "name": "a"}
        httpx.post(f"{server.url}/upload/storage/v1/b/{bucket}/o", params=upload, content=b"1").raise_for_status()
        call("GET", "/b", project="p", maxResults=1, prefix="b")
        call("POST", "/b", {"name": f"{bucket}-t"}, project="p")
        call("PUT", f"/b/{bucket}-t", {"labels": {"a": "b"}})
        call("PATCH", f"/b/{bucket}-t", {"retentionPolicy": {"retentionPeriod": "1"}})
        call("POST", f"/b/{bucket}-t/lockRetentionPolicy", ifMetagenerationMatch=3)
        call("GET", f"/b/{bucket}-t")
        call("DELETE", f"/b/{bucket}-t")
        call("GET", f"/b/{bucket}/o", fields="items(name,metadata/a),nextPageToken", delimiter="/")
        call("GET", f"/b/{bucket}/o/a", projection="full")
        call("PATCH", f"/b/{bucket}/o/a", {"metadata": {"a": None}})
        call("PUT", f"/b/{bucket}/o/a", {"metadata": {"a": "b"}, "customTime": "2026-01-01T00:00:00Z"})
        call("POST", f"/b/{bucket}/o/c/compose", {"sourceObjects": [{"name": "a"}], "destination": {}})
        call("POST", f"/b/{bucket}/o/a/copyTo/b/{bucket}/o/d")
        call("POST", f"/b/{bucket}/o/a/rewriteTo/b/{bucket}/o/e", {"contentType": "x/y"})
        call("POST", f"/b/{bucket}/o/a/moveTo/o/f")
        call("DELETE", f"/b/{bucket}/o/f")
    seen = httpx.get(f"{server.url}/_recorder").json()["seen"]
    assert {method.id for method in METHODS} <= seen.keys()


def test_a_wrong_exchange_is_noticed() -> None:
    def problems(verb: str, path: str, query: str, answer: Any, status: int = 200, body: bytes = b"") -> list[str]:
        exchange = Exchange(verb, path, query, {"content-type": "application/json"}, body)
        exchange.status, exchange.response_headers = status, {"content-type": "application/json"}
        exchange.response_body = json.dumps(answer).encode()
        return exchange.problems()

    good = {"kind": "storage#object", "name": "o", "size": "1"}
    assert problems("GET", "/storage/v1/b/x/o/y", "generation=1", good) == []
    assert problems("GET", "/storage/v1/b/x/o/y", "", {**good, "sizeBytes": 1})
    assert problems("GET", "/storage/v1/b/x/o/y", "", {**good, "size": 1})
    assert problems("GET", "/storage/v1/b/x/o/y", "ifGeneration=1", good)
    assert problems("GET", "/storage/v1/b/x/objects/y", "", good)
    assert problems("POST", "/upload/storage/v1/b/x/o/y", "", good)
    assert problems("PATCH", "/storage/v1/b/x/o/y", "", good, body=b'{"owners": 1}')
    assert problems("GET", "/storage/v1/b/x/o/y", "", {"error": "no"}, status=404)
    assert problems("GET", "/storage/v1/b/x/o/y", "", {"error": {"code": 500}}, status=404)


@pytest.mark.parametrize(
    ("verb", "path", "options", "status"),
    [
        ("GET", "/storage/v1/b/{b}/iam", {}, 501),
        ("GET", "/storage/v1/b/{b}/o/a/acl", {}, 501),
        ("POST", "/storage/v1/b/{b}/o/a/restore", {}, 501),
        ("GET", "/storage/v1/b/{b}/o", {"params": {"softDeleted": "true"}}, 501),
        ("GET", "/storage/v1/b/{b}/o", {"params": {"prefx": "a"}}, 400),
        ("GET", "/storage/v1/b/{b}/o", {"params": {"pageToken": "a"}}, 400),
        ("GET", "/storage/v1/b/{b}/o", {"params": {"fields": "items(name"}}, 400),
        ("GET", "/storage/v1/b/{b}/o/a", {"params": {"ifGenerationMatch": "x"}}, 400),
        ("PATCH", "/storage/v1/b/{b}", {"json": {"lifecycle": {"rule": [{}]}}}, 501),
        ("PATCH", "/storage/v1/b/{b}", {"json": {"lifecicle": {}}}, 400),
        ("POST", "/storage/v1/b", {"json": {"name": "abc"}}, 400),
        ("POST", "/storage/v1/b", {"json": {"name": "A"}, "params": {"project": "p"}}, 400),
        ("POST", "/storage/v1/b", {"content": b"{", "params": {"project": "p"}}, 400),
        ("POST", "/storage/v1/b/{b}/o/k/compose", {"json": {"sourceObjects": []}}, 400),
        ("POST", "/upload/storage/v1/b/{b}/o", {"params": {"uploadType": "x"}}, 400),
        ("POST", "/upload/storage/v1/b/{b}/o", {"params": {"uploadType": "media"}}, 400),
        (
            "POST",
            "/upload/storage/v1/b/{b}/o",
            {"params": {"uploadType": "media", "name": "k", "kmsKeyName": "k"}},
            501,
        ),
        ("POST", "/upload/storage/v1/b/none-such/o", {"params": {"uploadType": "media", "name": "k"}}, 404),
        ("GET", "/_holdfast/reset", {}, 501),
    ],
)
def test_what_is_not_there_is_refused_with_a_reason(
    server: Any, bucket: str, verb: str, path: str, options: dict[str, Any], status: int
) -> None:
    answer = httpx.request(verb, server.url + path.format(b=bucket), **options)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == status
    assert error["errors"][0]["reason"]
