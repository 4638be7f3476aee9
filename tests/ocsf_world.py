"""The official OCSF 1.8.0 schema, as the package that bundles it makes JSON Schemas of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator


def assert_valid(event: Mapping[str, Any]) -> None:
    """Fail unless an event (`as_event`) is valid in its class, with the profiles it names and its type's arithmetic."""
    profiles = tuple(event["metadata"].get("profiles", ())) + (("cloud",) if "cloud" in event else ())
    errors = [
        f"{'.'.join(map(str, error.absolute_path)) or '(event)'}: {error.message[:300]}"
        for error in _validator(event["class_uid"], profiles).iter_errors(event)
    ]
    assert not errors, (errors, event)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"], event


@functools.cache
def _schema() -> Any:
    from ocsf_json_schema import OcsfJsonSchema, get_ocsf_schema

    return OcsfJsonSchema(get_ocsf_schema("1.8.0"))


@functools.cache
def _validator(class_uid: int, profiles: tuple[str, ...]) -> Draft202012Validator:
    from referencing import Registry, Resource

    schema = _schema()
    name = schema.lookup_class_name_from_uid(class_uid)

    def retrieve(uri: str) -> Resource[Any]:
        return Resource.from_contents(schema.get_schema_from_uri(uri))

    return Draft202012Validator(schema.get_class_schema(name, list(profiles)), registry=Registry(retrieve=retrieve))
