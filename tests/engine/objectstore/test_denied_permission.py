"""Which permission a refusal names: that and nothing else of a service's text gets into a message."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore._translate import Call, translate_answer
from holdfast.engine.objectstore.errors import PermissionRefused, denied_permission

AWS = "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::b/k"
GOOGLE = "a@p.iam.gserviceaccount.com does not have access. Permission 'storage.objects.get' denied on resource"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (AWS, "s3:PutObject"),
        (GOOGLE, "storage.objects.get"),
        ("Access Denied", None),
        ("not authorized to perform: <script>", None),
        ("Permission 'x' OR secret' denied", None),
    ],
)
def test_only_a_permissions_name_is_taken(text: str, named: str | None) -> None:
    assert denied_permission(text) == named


def test_a_refusal_tells_it_and_keeps_the_rest_of_the_answer_to_itself() -> None:
    call = Call("site", "put", "k", writes=True)
    error = translate_answer(403, "AccessDenied", call, AWS.encode())
    assert isinstance(error, PermissionRefused)
    assert "no right s3:PutObject" in str(error)
    assert "assumed-role" not in str(error)
