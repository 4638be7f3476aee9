"""Attributes from cloud to cloud: what fits is kept, what does not is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore.attribute_mapping import RESERVED_BYTES, STORAGE_CLASSES, map_attributes
from holdfast.engine.objectstore.attribute_rules import RULES, check_attributes
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes

CLOUDS = [Cloud.AWS, Cloud.GCP, Cloud.AZURE]
_TEXT = st.text(max_size=40)
_CLASSES = sorted({name for rules in RULES.values() for name in rules.storage_classes})
_ATTRIBUTES = st.builds(
    Attributes,
    content_type=st.none() | _TEXT,
    cache_control=st.none() | _TEXT,
    content_disposition=st.none() | _TEXT,
    content_encoding=st.none() | st.just("gzip"),
    content_language=st.none() | _TEXT,
    storage_class=st.none() | st.sampled_from(_CLASSES),
    tags=st.dictionaries(st.text(max_size=140), st.text(max_size=260), max_size=14),
    metadata=st.dictionaries(_TEXT, st.text(max_size=3000), max_size=8),
)


@given(_ATTRIBUTES, st.sampled_from(CLOUDS), st.sampled_from(CLOUDS))
def test_what_is_mapped_is_taken_and_what_is_missing_is_said(found: Attributes, source: Cloud, target: Cloud) -> None:
    mapped, losses = map_attributes(found, source, target)
    check_attributes(mapped, target, "here")
    said = "\n".join(losses)
    for name, value in found.headers().items():
        field = name.lower().replace("-", "_")
        assert mapped.headers().get(name) == value or field in said or field == "storage_class"
    for kind, before, after in (("metadata", found.metadata, mapped.metadata), ("tag", found.tags, mapped.tags)):
        for name, value in before.items():
            kept = after.get(name) == value
            assert kept or f"{kind} {name}: " in said or (kind == "tag" and "tags: " in said) or name == "holdfast_tags"


@given(_ATTRIBUTES)
def test_nothing_is_lost_inside_a_cloud_that_it_could_hold(found: Attributes) -> None:
    for cloud in CLOUDS:
        once, _ = map_attributes(found, cloud, cloud)
        twice, losses = map_attributes(once, cloud, cloud)
        assert (twice, losses) == (once, ())


@pytest.mark.parametrize(
    ("source", "target", "before", "after", "said"),
    [
        (Cloud.AWS, Cloud.GCP, "STANDARD_IA", "NEARLINE", False),
        (Cloud.AWS, Cloud.AZURE, "GLACIER_IR", "Cold", False),
        (Cloud.AWS, Cloud.GCP, "DEEP_ARCHIVE", "ARCHIVE", True),
        (Cloud.AWS, Cloud.AZURE, "GLACIER", "Cold", True),
        (Cloud.AWS, Cloud.AWS, "GLACIER", "GLACIER_IR", True),
        (Cloud.AWS, Cloud.AZURE, "INTELLIGENT_TIERING", "Hot", True),
        (Cloud.GCP, Cloud.AWS, "ARCHIVE", "GLACIER_IR", True),
        (Cloud.GCP, Cloud.AZURE, "COLDLINE", "Cold", False),
        (Cloud.AZURE, Cloud.AWS, "Archive", "GLACIER_IR", True),
        (Cloud.AZURE, Cloud.GCP, "Cool", "NEARLINE", False),
        (Cloud.AZURE, Cloud.AZURE, "Cool", "Cool", False),
        (Cloud.AZURE, Cloud.GCP, "Tepid", None, True),
        (Cloud.AWS, Cloud.GCP, None, None, False),
    ],
)
def test_storage_classes(source: Cloud, target: Cloud, before: Any, after: Any, said: bool) -> None:
    mapped, losses = map_attributes(Attributes(storage_class=before), source, target)
    assert mapped.storage_class == after
    assert bool(losses) == said


def test_no_class_is_translated_into_one_that_must_be_restored_first() -> None:
    for row in STORAGE_CLASSES:
        for cloud, names in zip(CLOUDS, row, strict=True):
            assert names[0] not in RULES[cloud].offline


def test_the_policys_class_wins() -> None:
    mapped, losses = map_attributes(
        Attributes(storage_class="STANDARD"), Cloud.AWS, Cloud.AZURE, storage_class="Archive"
    )
    assert (mapped.storage_class, losses) == ("Archive", ())


def test_metadata_names_azure_does_not_take_are_changed_and_never_onto_another() -> None:
    found = Attributes(metadata={"a-b": "1", "a_b": "2", "9": "3", "x.y": "4"})
    mapped, losses = map_attributes(found, Cloud.AWS, Cloud.AZURE)
    assert mapped.metadata == {"a_b": "2", "_9": "3", "x_y": "4"}
    assert losses == (
        "metadata 9: becomes _9",
        "metadata a-b: another entry is called a_b, left out",
        "metadata x.y: becomes x_y",
    )


def test_room_is_left_for_holdfasts_own_metadata() -> None:
    found = Attributes(metadata={f"key{number:02}": "x" * 95 for number in range(30)})
    mapped, losses = map_attributes(found, Cloud.GCP, Cloud.AWS)
    size_bytes = sum(len(name) + len(value) for name, value in mapped.metadata.items())
    assert 2048 - RESERVED_BYTES - 100 < size_bytes <= 2048 - RESERVED_BYTES
    assert len(losses) == 30 - len(mapped.metadata)


def test_tags_survive_a_cloud_that_has_none() -> None:
    tags = {"owner": "team a", "path": "x/y=z", "empty": ""}
    there, losses = map_attributes(Attributes(tags=tags), Cloud.AWS, Cloud.GCP)
    assert (there.tags, losses) == ({}, ("tags: this cloud has none, kept as metadata holdfast_tags",))
    back, losses = map_attributes(there, Cloud.GCP, Cloud.AZURE)
    assert (back.tags, dict(back.metadata), losses) == (tags, {}, ())


def test_a_folder_keeps_nothing_and_says_so() -> None:
    found = Attributes(content_type="text/plain", tags={"a": "b"}, metadata={"c": "d"})
    mapped, losses = map_attributes(found, Cloud.AWS, Cloud.LOCAL)
    assert mapped == NO_ATTRIBUTES
    assert losses == (
        "content_type: a folder keeps none",
        "metadata c: a folder keeps none",
        "tag a: a folder keeps none",
    )
