"""Whether a request body is what Kubernetes' OpenAPI models allow: the models of the `kubernetes` package itself.

Those models are generated from Kubernetes' OpenAPI document. They deserialize leniently (an unknown field is dropped),
so here every field must be one of the model's, of its type, and every required one must be there. A few rules of the
API server that no schema holds are checked too: names, label values, the size of annotations, ``restartPolicy``. What
admission, defaulting and the quota of a real cluster would say is not known here.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from kubernetes import client

_PRIMITIVES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|e[0-9]+)?")
_ANNOTATION_BYTES = 256 * 1024


class Invalid(Exception):
    """The body is not what the model allows."""


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data


def check(body: Any, model: str) -> Any:
    """The body as the SDK's model. Raises Invalid: an unknown field, a wrong type, a missing field, a bad name."""
    _field(body, model, model)
    try:
        made = client.ApiClient().deserialize(_Body(json.dumps(body)), model)
    except ValueError as error:
        raise Invalid(f"{model}: {error}") from None
    _rules(body, model)
    return made


def _field(value: Any, kind: str, path: str) -> None:
    if kind.startswith("list["):
        _expect(value, (list,), kind, path)
        for index, item in enumerate(value):
            _field(item, kind[5:-1], f"{path}[{index}]")
    elif kind.startswith(("dict[", "dict(")):
        _expect(value, (dict,), kind, path)
        for name, item in value.items():
            _field(item, kind[5:-1].partition(", ")[2], f"{path}.{name}")
    elif kind in _PRIMITIVES:
        _expect(value, _PRIMITIVES[kind], kind, path)
        if kind in ("int", "float") and isinstance(value, bool):
            raise Invalid(f"{path}: expected {kind}, found a bool")
    elif kind == "datetime":
        _expect(value, (str,), kind, path)
        datetime.fromisoformat(value)
    elif kind != "object":
        _model(value, kind, path)


def _model(value: Any, kind: str, path: str) -> None:
    _expect(value, (dict,), kind, path)
    model = getattr(client, kind)
    by_json = {name: attribute for attribute, name in model.attribute_map.items()}
    for name, item in value.items():
        if name not in by_json:
            raise Invalid(f'strict decoding error: unknown field "{path}.{name}"')
        _field(item, model.openapi_types[by_json[name]], f"{path}.{name}")


def _expect(value: Any, types: tuple[type, ...], kind: str, path: str) -> None:
    if not isinstance(value, types):
        raise Invalid(f"{path}: expected {kind}, found {type(value).__name__}")


def _rules(body: dict[str, Any], model: str) -> None:
    if model == "V1Job":
        _metadata(body["metadata"], longest=63)
        _metadata(body["spec"]["template"].get("metadata", {}))
        _pod(body["spec"]["template"]["spec"])
    elif model == "V1Secret":
        _metadata(body["metadata"], longest=253)


def _metadata(metadata: dict[str, Any], longest: int | None = None) -> None:
    name = metadata.get("name", "")
    if longest is not None and (not _NAME.fullmatch(name) or len(name) > longest):
        raise Invalid(f"metadata.name: {name!r} is no DNS-1123 subdomain of at most {longest} characters")
    for label, value in metadata.get("labels", {}).items():
        if not _LABEL.fullmatch(value):
            raise Invalid(f"metadata.labels.{label}: {value!r} is no label value")
    annotations = metadata.get("annotations", {})
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATION_BYTES:
        raise Invalid(f"metadata.annotations: {size} bytes, more than {_ANNOTATION_BYTES}")


def _pod(spec: dict[str, Any]) -> None:
    if spec.get("restartPolicy") not in ("Never", "OnFailure"):
        raise Invalid("spec.template.spec.restartPolicy: expected Never or OnFailure")
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise Invalid(f"volumeMounts: no volume {mount['name']!r}")
        for kind in ("requests", "limits"):
            for name, quantity in container.get("resources", {}).get(kind, {}).items():
                if not _QUANTITY.fullmatch(quantity):
                    raise Invalid(f"resources.{kind}.{name}: {quantity!r} is no quantity")
