"""The errors of Holdfast: few types, each message a thing a person on call can act on."""

from __future__ import annotations


class HoldfastError(Exception):
    """Something is wrong that its reader can act on.

    Args:
        what: what went wrong, one sentence without a full stop.
        where: the file, key, site or option it is about.
        expected: what was expected there.
        found: what was found instead.
        fix: what to do next.
    """

    exit_code = 1
    #: True when trying the same call again may work (the other side was unavailable, not wrong).
    transient = False

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.found is not None:
            parts.append(f"found {self.found}")
        text = "; ".join(parts)
        return f"{text}. {self.fix}" if self.fix else text

    def as_dict(self) -> dict[str, str | None]:
        """The same facts for ``--json`` and for a journal."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "fix": self.fix,
        }


class ConfigError(HoldfastError):
    """The topology, a connection or an argument is wrong; nothing was started."""

    exit_code = 2


class UnknownName(ConfigError):
    """A site, group, dataset, job, service or scenario that the topology does not have."""


class Refused(HoldfastError):
    """A rule of safety or residency forbids it; nothing was changed."""

    exit_code = 3
