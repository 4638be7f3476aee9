"""Retention profiles: for how long an export is locked, and by which rule. No compliance is claimed.

They are data: `retention.yaml` beside this file, and one of that name beside the topology for a firm's own. A firm
names profiles in `audit.retention`, the longest counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from holdfast.engine.audit.packaged import HERE, read_yaml
from holdfast.errors import ConfigError

FILE = "retention.yaml"


@dataclass(frozen=True)
class Profile:
    """One rule, as engineering reads it.

    Args:
        years: for how long records are kept.
        worm: whether the rule asks for storage that cannot be rewritten, or an audit trail instead.
        about: what it is about, one sentence.
        source: the rule's name.
    """

    name: str
    years: float
    worm: bool
    about: str
    source: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    years: float = Field(ge=0, le=100, allow_inf_nan=False)
    worm: bool
    about: str = Field(min_length=1, max_length=500)
    source: str = Field(min_length=1, max_length=200)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    profiles: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], _Row] = Field(min_length=1)


@cache
def shipped_profiles() -> Mapping[str, Profile]:
    """Those of this version, by name."""
    return _read(HERE / FILE)


def known_profiles(own: Path | None = None) -> dict[str, Profile]:
    """The shipped ones, and a firm's own.

    Args:
        own: the firm's file; one that is not there adds none.

    Raises:
        ConfigError: it cannot be read, or a profile in it has a shipped one's name: that would shorten it unseen.
    """
    found = dict(shipped_profiles())
    if own is None or not own.exists():
        return found
    added = _read(own)
    if twice := sorted(set(added) & set(found)):
        raise ConfigError(
            "a retention profile has the name of a shipped one",
            where=str(own),
            expected="names of your own",
            found=", ".join(twice),
            fix="Give it another name, and name that one in audit.retention",
        )
    return found | added


def profiles_of(names: Sequence[str], own: Path | None = None) -> list[Profile]:
    """By name. Raises ConfigError."""
    known = known_profiles(own)
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigError(
            "there is no such retention profile",
            where="audit.retention",
            expected=f"one of {', '.join(sorted(known))}",
            found=", ".join(missing),
            fix=f"Add it to {FILE} beside the topology",
        )
    return [known[name] for name in names]


def _read(file: Path) -> dict[str, Profile]:
    rows = read_yaml(file, _File, "the retention profiles").profiles
    return {name: Profile(name, row.years, row.worm, row.about, row.source) for name, row in rows.items()}
