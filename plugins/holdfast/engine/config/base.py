"""What every part of the topology is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


def _plain_relative_path(value: str) -> str:
    parts = value.split("/")
    if "\\" in value or "\0" in value or any(part in ("", ".", "..") for part in parts):
        raise ValueError("expected a relative path with `/` between plain names")
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,61}[a-z0-9]$")]
RelativePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain_relative_path)]


class Model(BaseModel):
    """Frozen, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
