"""Events against the official schema of OCSF 1.8.0."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema

VERSION = "1.8.0"


@cache
def _validator(class_uid: int, profiles: tuple[str, ...]) -> jsonschema.protocols.Validator:
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    official = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))
    name = official.lookup_class_name_from_uid(class_uid)
    return jsonschema.Draft202012Validator(official.get_class_schema(name, list(profiles)))


def assert_valid(event: dict[str, Any]) -> None:
    """Raises AssertionError with every way in which the event is not of its class."""
    profiles = tuple(event.get("metadata", {}).get("profiles", ()))
    errors = list(_validator(event["class_uid"], profiles).iter_errors(event))
    assert not errors, "\n".join(f"{error.json_path}: {error.message[:300]}" for error in errors)
