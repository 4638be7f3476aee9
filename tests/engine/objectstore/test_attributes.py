"""What objects say of themselves, kept and mapped."""

from __future__ import annotations

import pytest

from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import NotSupported

ALL = Attributes(
    content_type="text/csv",
    cache_control="max-age=60",
    content_disposition="attachment",
    content_encoding="gzip",
    content_language="de",
    storage_class="STANDARD_IA",
    metadata={"colour-name": "blue"},
)


def test_what_is_put_is_what_a_read_says() -> None:
    store = memory_store()
    store.put("a", b"x", attributes=ALL)
    assert store.open("a").attributes == ALL


def test_the_callers_own_content_type_and_metadata_win() -> None:
    store = memory_store()
    store.put("a", b"x", attributes=ALL, content_type="text/plain", metadata={"write_id": "1"})
    found = store.open("a")
    assert found.content_type == "text/plain"
    assert found.metadata == {"colour-name": "blue", "write_id": "1"}


def test_a_store_that_keeps_no_attributes_refuses_them(tmp_path) -> None:
    with pytest.raises(NotSupported, match="keeps no attributes"):
        local_store("local", tmp_path).put("a", b"x", attributes=Attributes(cache_control="no-store"))
