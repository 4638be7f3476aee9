"""The controls, as data: which evidence speaks to which rule. Reading a rule is counsel's; this is where to look."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast.engine.audit.packaged import HERE, read_yaml

DISCLAIMER = (
    "No compliance is claimed. Which evidence speaks to which rule is engineering's reading; article and control "
    "numbers are to be checked by counsel. What is unknown or missing counts as not shown."
)
Look = Literal["verification", "coverage", "drills", "posture", "residency", "retention", "documents"]


class Evidence(BaseModel):
    """One thing to look for. ``kinds``, ``checks`` and ``paths`` narrow it; none: all of its kind."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    look: Look
    says: str
    kinds: Annotated[tuple[str, ...], Field(strict=False)] = ()
    checks: Annotated[tuple[str, ...], Field(strict=False)] = ()
    paths: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Control(BaseModel):
    """A rule's demand, in one line of engineering."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    framework: str
    articles: str
    title: str
    evidence: Annotated[tuple[Evidence, ...], Field(strict=False)]
    missing: Annotated[tuple[str, ...], Field(strict=False)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    controls: Annotated[tuple[Control, ...], Field(strict=False, min_length=1)]
    maximum_age_days: dict[Look, Annotated[int, Field(ge=1)]]

    @model_validator(mode="after")
    def _once(self) -> Self:
        ids = [control.id for control in self.controls]
        if len(set(ids)) != len(ids):
            raise ValueError("expected every id once")
        return self


@cache
def controls() -> tuple[Control, ...]:
    """All of them, in the order of the file."""
    return _file().controls


@cache
def maximum_ages() -> Mapping[Look, timedelta]:
    """By kind of evidence how old it may be at the end of what an index is made of; what is older shows nothing."""
    return {look: timedelta(days=days) for look, days in _file().maximum_age_days.items()}


@cache
def _file() -> _File:
    return read_yaml(HERE / "evidence" / "controls.yaml", _File, "the controls")
