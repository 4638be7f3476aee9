"""Signatures of S3 requests: AWS's own example, and botocore as the oracle."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.objectstore.parts.sigv4 import Signer

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)


class _Oracle(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    def payload(self, request: Any) -> Any:
        return "UNSIGNED-PAYLOAD" if request.context.get("unsigned") else super().payload(request)


def test_the_example_of_the_documents() -> None:
    """GET with a range, from AWS's page on header-based authorisation."""
    signer = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None, "us-east-1")
    headers = {"Host": "examplebucket.s3.amazonaws.com", "Range": "bytes=0-9"}
    signed = signer.signed("GET", "/test.txt", "", headers, b"", datetime(2013, 5, 24, tzinfo=UTC))
    assert signed["Authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    key=_TEXT,
    query=st.dictionaries(st.sampled_from(["uploads", "uploadId", "partNumber", "prefix", "a"]), _TEXT),
    values=st.dictionaries(st.sampled_from(["Content-Type", "x-amz-meta-b", "x-amz-meta-a", "If-Match"]), _VALUE),
    token=st.one_of(st.none(), st.just("session/token==")),
    body=st.one_of(st.none(), st.binary(max_size=20)),
    at=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
)
def test_botocore_signs_the_same(
    method: str, key: str, query: dict[str, str], values: dict[str, str], token: str | None, body: Any, at: datetime
) -> None:
    path = f"/bucket/{quote(key, safe='/~')}"
    said = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())
    headers = {"Host": "127.0.0.1:9000", "User-Agent": "holdfast", **values}
    ours = Signer("AKIAEXAMPLE", "secret", token, "eu-west-1").signed(method, path, said, headers, body, at)
    request = AWSRequest(method, f"http://127.0.0.1:9000{path}{'?' if said else ''}{said}", headers, data=body or b"")
    request.context["unsigned"] = body is None
    with patch("botocore.auth.get_current_datetime", lambda: at.replace(tzinfo=None)):
        _Oracle(Credentials("AKIAEXAMPLE", "secret", token), "s3", "eu-west-1").add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert {name.lower(): value for name, value in ours.items()} == theirs
