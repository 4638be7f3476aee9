"""The official OCSF 1.8.0 schema, as a judge of events."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from holdfast.engine.audit.ocsf.schema import VERSION


@cache
def _validator(class_uid: int, profiles: tuple[str, ...]) -> Any:
    from jsonschema import Draft202012Validator
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION))
    found = schema.get_class_schema(schema.lookup_class_name_from_uid(class_uid), list(profiles))
    return Draft202012Validator(found)


def assert_valid(event: Mapping[str, Any]) -> None:
    """Fails with every fault of an event (`as_event`), fields its class and profiles do not have included."""
    profiles = tuple(event["metadata"].get("profiles", ())) + (("cloud",) if "cloud" in event else ())
    faults = [
        f"{error.json_path}: {error.message[:200]}"
        for error in _validator(event["class_uid"], tuple(sorted(set(profiles)))).iter_errors(event)
    ]
    assert not faults, f"{event}: {faults}"
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"], event
