"""Events against the official schema of their OCSF version, which the wheel ``ocsf-json-schema`` bundles."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema


@cache
def _schema(version: str) -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))


@cache
def _validator(version: str, class_uid: int, profiles: tuple[str, ...]) -> jsonschema.Draft202012Validator:
    schema = _schema(version)
    name = schema.lookup_class_name_from_uid(class_uid=class_uid)
    return jsonschema.Draft202012Validator(schema.get_class_schema(class_name=name, profiles=list(profiles)))


def assert_valid(event: dict[str, Any]) -> None:
    """The event is one of its class, in its version, with its profiles, and its type follows from both."""
    metadata = event["metadata"]
    validator = _validator(metadata["version"], event["class_uid"], tuple(metadata.get("profiles", ())))
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(event)]
    assert not errors, errors
    assert event["category_uid"] == event["class_uid"] // 1000
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
