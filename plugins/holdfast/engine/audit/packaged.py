"""Data that lies beside the code: YAML, read strictly, one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from holdfast.errors import ConfigError

HERE = Path(__file__).parent
_LARGEST_BYTES = 1024 * 1024

Read = TypeVar("Read", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """A key that is there twice is an error, not the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path, model: type[Read], what: str) -> Read:
    """A file of data.

    Args:
        model: what it must be.
        what: its name for people, e.g. ``the retention profiles``.

    Raises:
        ConfigError: it cannot be read, or is not of this form; the message says where in it.
    """
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise ValueError(f"more than {_LARGEST_BYTES} bytes")
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        expected, found = f"{place}: {first['msg']}", str(first["input"])[:200]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        expected, found = "UTF-8 YAML of the documented form", " ".join(str(error).split())[:300]
    raise ConfigError(
        f"{what} cannot be read",
        where=str(file),
        expected=expected,
        found=found,
        fix="docs/how-to/audit.md shows the form",
    )
