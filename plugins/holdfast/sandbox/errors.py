"""What can go wrong with the sandbox, in words its reader can act on."""

from __future__ import annotations

from holdfast.errors import ConfigError, HoldfastError


class SandboxError(HoldfastError):
    """Base of the sandbox's errors."""


class SandboxNotUp(SandboxError):
    """The sandbox, or the part that was asked, is not running."""


class PartFailed(SandboxError):
    """A part did not come up, or did not do what it was told."""


class PortTaken(SandboxError):
    """A port this sandbox keeps for a part is held by a process that is not its own."""


class MissingTool(SandboxError):
    """Something the sandbox starts is not installed."""


class BadFault(ConfigError):
    """A fault that does not exist, or with a parameter that makes no sense."""
