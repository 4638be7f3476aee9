"""What each cloud takes as attributes, as data, and the check that a put makes of it.

Sources: the clouds' own reference pages on object metadata, tags and storage classes; measured on the emulators where
those enforce them. A store must neither change nor drop what it is given, so what it would is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from holdfast.engine.config import Cloud
from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.attributes import NO_ATTRIBUTES, Attributes
from holdfast.engine.objectstore.errors import InvalidAttributes, NotSupported
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.keys import check_metadata

#: RFC 9110 token in lower case: HTTP does not keep case, so no store does.
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
#: Azure: a C# identifier; of its letters only those HTTP can carry.
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class AttributeRules:
    """What one cloud takes.

    Args:
        metadata_name: what a name of user metadata must match in whole.
        metadata_bytes: of all names and values together at most.
        most_tags: tags at most; 0: it has none.
        tag_text: what a tag's name and value must match in whole.
        storage_classes: the classes an object can be put in.
        offline: those of them whose objects must be restored before they can be read.
    """

    metadata_name: re.Pattern[str]
    metadata_bytes: int
    most_tags: int
    tag_text: re.Pattern[str]
    storage_classes: frozenset[str]
    offline: frozenset[str]


RULES: dict[Cloud, AttributeRules] = {
    Cloud.AWS: AttributeRules(
        metadata_name=_TOKEN,
        metadata_bytes=2048,
        most_tags=10,
        tag_text=re.compile(r"[\w .:/=+@-]*"),
        storage_classes=frozenset(
            {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}
            | {"GLACIER", "DEEP_ARCHIVE", "EXPRESS_ONEZONE", "OUTPOSTS"}
        ),
        offline=frozenset({"GLACIER", "DEEP_ARCHIVE"}),
    ),
    Cloud.GCP: AttributeRules(
        metadata_name=_TOKEN,
        metadata_bytes=8192,
        most_tags=0,
        tag_text=re.compile(""),
        storage_classes=frozenset({"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"}),
        offline=frozenset(),
    ),
    Cloud.AZURE: AttributeRules(
        metadata_name=_IDENTIFIER,
        metadata_bytes=8192,
        most_tags=10,
        tag_text=re.compile(r"[A-Za-z0-9 +./:=_-]*"),
        storage_classes=frozenset({"Hot", "Cool", "Cold", "Archive"}),
        offline=frozenset({"Archive"}),
    ),
}
#: Metadata up to this is taken by every cloud.
_EVERYWHERE_BYTES = min(rules.metadata_bytes for rules in RULES.values())
TAG_NAME_LETTERS = 128
TAG_VALUE_LETTERS = 256


def carried_by_http(value: str) -> bool:
    """Whether a header brings this value back as it is: printable ASCII without blanks at its ends."""
    return value.isascii() and value.isprintable() and value == value.strip()


def tag_fits(rules: AttributeRules, name: str, value: str) -> bool:
    """Whether this cloud takes the tag."""
    return (
        0 < len(name) <= TAG_NAME_LETTERS
        and len(value) <= TAG_VALUE_LETTERS
        and bool(rules.tag_text.fullmatch(name) and rules.tag_text.fullmatch(value))
    )


def check_attributes(attributes: Attributes, cloud: Cloud, where: str) -> None:
    """Raises InvalidAttributes for what this cloud would refuse, change or drop."""
    rules = RULES[cloud]
    for found in _misfits(attributes, rules):
        raise InvalidAttributes(
            f"{cloud.value} does not keep this attribute as it is",
            where=where,
            found=found[:200],
            fix="Map the attributes to this cloud first (map_attributes), or put without it",
        )


def put_options(
    call: Call,
    capabilities: Capabilities,
    cloud: Cloud | None,
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    attributes: Attributes | None,
) -> dict[str, Any]:
    """What obstore's put is told about an object beside its bytes.

    Args:
        call: for messages.
        capabilities: of the backend.
        cloud: whose rules hold; ``None``: nobody's.
        content_type: the caller's own; a hint where a backend keeps no attributes.
        metadata: the caller's own.
        attributes: what else the object says of itself.

    Raises:
        InvalidKey: metadata that some backend would not keep.
        InvalidAttributes: attributes that this one would not.
        NotSupported: it keeps none at all.
    """
    if metadata:
        check_metadata(metadata, call.where)
    if content_type is None and (attributes is None or attributes is NO_ATTRIBUTES):
        if not metadata:
            return {}
        # What `check_metadata` lets pass every cloud takes; only how much it is remains to be asked.
        if capabilities.metadata and sum(map(len, chain(*metadata.items()))) <= _EVERYWHERE_BYTES:
            return {"attributes": dict(metadata)}
    asked = (attributes or NO_ATTRIBUTES).adding(content_type, metadata)
    if not capabilities.metadata:
        if not asked.metadata and (attributes is None or attributes == NO_ATTRIBUTES):
            return {}
        raise NotSupported(
            "this backend keeps no attributes and no metadata",
            where=call.where,
            found=", ".join([*asked.headers(), *asked.tags, *asked.metadata]),
        )
    if cloud is not None:
        check_attributes(asked, cloud, call.where)
    written = {**asked.headers(), **asked.metadata}
    return {**({"attributes": written} if written else {}), **({"tags": dict(asked.tags)} if asked.tags else {})}


def _misfits(attributes: Attributes, rules: AttributeRules) -> list[str]:
    found = [
        f"metadata {name!r}: {value!r}"
        for name, value in attributes.metadata.items()
        if not rules.metadata_name.fullmatch(name) or not carried_by_http(value)
    ]
    found += [f"{name}: {value!r}" for name, value in attributes.headers().items() if not carried_by_http(value)]
    size_bytes = sum(len(name) + len(value) for name, value in attributes.metadata.items())
    if size_bytes > rules.metadata_bytes:
        found.append(f"{size_bytes} bytes of metadata, more than {rules.metadata_bytes}")
    if len(attributes.tags) > rules.most_tags:
        found.append(f"{len(attributes.tags)} tags, more than {rules.most_tags}")
    found += [f"tag {name!r}: {value!r}" for name, value in attributes.tags.items() if not tag_fits(rules, name, value)]
    if attributes.storage_class is not None and attributes.storage_class not in rules.storage_classes:
        found.append(f"storage class {attributes.storage_class}")
    return found
