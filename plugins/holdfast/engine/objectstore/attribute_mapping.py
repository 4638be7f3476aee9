"""Attributes from one cloud's words into another's, with everything lost on the way said.

The tables are data; docs/reference/sync-attributes.md shows them. A loss names the attribute, never the object, so
that a run of a million objects reports each kind of loss once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore.attribute_rules import RULES, AttributeRules, carried_by_http, tag_fits
from holdfast.engine.objectstore.attributes import HEADERS, NO_ATTRIBUTES, Attributes

#: Tags on a cloud that has none: one entry of user metadata, written as S3 writes tags in a header.
TAGS_METADATA = "holdfast_tags"
#: Kept free in the metadata of every mapped object for what Holdfast writes itself (e.g. the mark of a replica).
RESERVED_BYTES = 256

#: (AWS, GCP, Azure). The first row that holds a class is its translation; the first class of a column is written.
#: A replica must be readable at once, for its verification and for a failover: no row translates *into* an offline
#: class (GLACIER, DEEP_ARCHIVE, Archive).
STORAGE_CLASSES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("STANDARD", "REDUCED_REDUNDANCY", "INTELLIGENT_TIERING", "EXPRESS_ONEZONE", "OUTPOSTS"),
        ("STANDARD", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"),
        ("Hot", "Premium"),
    ),
    (("STANDARD_IA", "ONEZONE_IA"), ("NEARLINE",), ("Cool",)),
    (("GLACIER_IR",), ("COLDLINE",), ("Cold",)),
    (("GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"), ("ARCHIVE",), ("Cold", "Archive")),
)
_COLUMN = {Cloud.AWS: 0, Cloud.GCP: 1, Cloud.AZURE: 2}
#: Classes whose translation there and back is the class itself; of every other the translation is a loss.
_EXACT = {"STANDARD", "STANDARD_IA", "GLACIER_IR", "NEARLINE", "COLDLINE", "Hot", "Cool", "Cold"}


def map_attributes(
    attributes: Attributes, source_cloud: Cloud, target_cloud: Cloud, *, storage_class: str | None = None
) -> tuple[Attributes, tuple[str, ...]]:
    """What the target keeps of a source object's attributes, and what it does not.

    Args:
        attributes: as the source says them.
        source_cloud: where the object lies.
        target_cloud: where it goes.
        storage_class: the class the policy names for this target; wins over the object's own.

    Returns:
        attributes the target takes as they are, and the losses, sorted.
    """
    if target_cloud not in RULES:
        return NO_ATTRIBUTES, tuple(sorted(f"{name}: a folder keeps none" for name in _said(attributes)))
    rules, losses = RULES[target_cloud], list[str]()
    restored = _with_tags_restored(attributes, rules)
    tags = _tags(restored.tags, rules, losses)
    metadata = _metadata(_tags_as_metadata(restored, rules, losses), target_cloud, rules, losses)
    mapped = replace(
        restored,
        **_headers(restored, losses),
        storage_class=storage_class or _storage_class(restored.storage_class, source_cloud, target_cloud, losses),
        tags=tags,
        metadata=metadata,
    )
    return mapped, tuple(sorted(losses))


def _said(attributes: Attributes) -> list[str]:
    names = [name for name in HEADERS if getattr(attributes, name) is not None]
    return [
        *names,
        *(f"metadata {name}" for name in attributes.metadata),
        *(f"tag {name}" for name in attributes.tags),
    ]


def _headers(attributes: Attributes, losses: list[str]) -> dict[str, str | None]:
    kept: dict[str, str | None] = {}
    for name in HEADERS:
        value = getattr(attributes, name)
        if value is not None and not carried_by_http(value):
            losses.append(f"{name}: not plain ASCII, left out")
            value = None
        kept[name] = value
    del kept["storage_class"]
    return kept


def _storage_class(found: str | None, source: Cloud, target: Cloud, losses: list[str]) -> str | None:
    if found is None:
        return None
    if source is target and found in RULES[target].storage_classes - RULES[target].offline:
        return found
    row = next((row for row in STORAGE_CLASSES if source in _COLUMN and found in row[_COLUMN[source]]), None)
    if row is None:
        losses.append(f"storage_class {found}: unknown, the bucket's own class is taken")
        return None
    # A class that stands in two rows is the translation of the first; one met only in the last came from there.
    mapped = row[_COLUMN[target]][0]
    if source is target or found not in _EXACT:
        losses.append(f"storage_class {found}: becomes {mapped}")
    return mapped


def _with_tags_restored(attributes: Attributes, rules: AttributeRules) -> Attributes:
    """Tags that a cloud without tags kept as metadata are tags again where there are any."""
    if not rules.most_tags or TAGS_METADATA not in attributes.metadata:
        return attributes
    metadata = dict(attributes.metadata)
    tags = dict(parse_qsl(metadata.pop(TAGS_METADATA), keep_blank_values=True))
    return replace(attributes, metadata=metadata, tags={**tags, **attributes.tags})


def _tags(tags: Mapping[str, str], rules: AttributeRules, losses: list[str]) -> dict[str, str]:
    if not rules.most_tags:
        return {}
    kept: dict[str, str] = {}
    for name in sorted(tags):
        if not tag_fits(rules, name, tags[name]):
            losses.append(f"tag {name}: a letter or length this cloud does not take, left out")
        elif len(kept) == rules.most_tags:
            losses.append(f"tag {name}: more than {rules.most_tags} tags, left out")
        else:
            kept[name] = tags[name]
    return kept


def _tags_as_metadata(attributes: Attributes, rules: AttributeRules, losses: list[str]) -> Mapping[str, str]:
    if rules.most_tags or not attributes.tags:
        return attributes.metadata
    losses.append(f"tags: this cloud has none, kept as metadata {TAGS_METADATA}")
    return {**attributes.metadata, TAGS_METADATA: urlencode(sorted(attributes.tags.items()))}


def _metadata(found: Mapping[str, str], target: Cloud, rules: AttributeRules, losses: list[str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    room = rules.metadata_bytes - RESERVED_BYTES
    # Names that fit go first, so that a renamed one never takes the place of one that had it.
    for name in sorted(found, key=lambda name: (_name_for(name, target) != name, name)):
        new, value = _name_for(name, target), found[name]
        if not rules.metadata_name.fullmatch(new) or not carried_by_http(value):
            losses.append(f"metadata {name}: not plain ASCII, left out")
        elif new in kept:
            losses.append(f"metadata {name}: another entry is called {new}, left out")
        elif len(new) + len(value) > room:
            losses.append(f"metadata {name}: more than {rules.metadata_bytes} bytes in all, left out")
        else:
            kept[new] = value
            room -= len(new) + len(value)
            if new != name:
                losses.append(f"metadata {name}: becomes {new}")
    return kept


def _name_for(name: str, target: Cloud) -> str:
    """The name as the target can keep it; not every name can be made to fit."""
    name = name.lower()
    if target is not Cloud.AZURE:
        return name
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter == "_") else "_" for letter in name)
    return f"_{name}" if name[:1].isdigit() else name
