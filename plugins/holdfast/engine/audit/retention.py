"""Retention profiles as data: for how long an export is locked, and by which rule. No compliance is claimed.

The texts and the years are `include/retention.yaml`'s equals in code: a firm names profiles in `audit.retention`, the
longest counts. What a rule demands of a firm is for its counsel to say; `source` is where to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import ConfigError


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


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "dora", 5, False, "Incident, test and change records of financial entities", "Regulation (EU) 2022/2554"
        ),
        Profile("fca", 6, False, "Records of an FCA firm's activities; six years is its usual longest", "FCA SYSC 9"),
        Profile(
            "sec-204-2-g", 5, False, "Electronic records of SEC-registered investment advisers", "17 CFR 275.204-2(g)"
        ),
        Profile(
            "sec-17a-4-f",
            6,
            True,
            "Electronic records of broker-dealers: WORM, or an audit trail",
            "17 CFR 240.17a-4(f)",
        ),
        Profile(
            "gdpr",
            1,
            False,
            "Logs that name people: no longer than their purpose needs",
            "Regulation (EU) 2016/679, Art. 5(1)(e)",
        ),
        Profile("drill", 0.0, False, "A trial: nothing is locked for a time", "none"),
    )
}


def profiles_of(names: Sequence[str]) -> list[Profile]:
    """By name. Raises ConfigError."""
    missing = [name for name in names if name not in PROFILES]
    if missing:
        raise ConfigError(
            "there is no such retention profile",
            where="audit.retention",
            expected=f"one of {', '.join(sorted(PROFILES))}",
            found=", ".join(missing),
        )
    return [PROFILES[name] for name in names]
