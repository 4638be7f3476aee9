"""Whether the SDK of a site's compute is installed, said once, before anything is asked of it."""

from __future__ import annotations

import importlib.util

from holdfast.errors import ConfigError


def require_sdk(module: str, *, kind: str, package: str, extra: str = "jobs") -> None:
    """Find the SDK without importing it, which takes seconds.

    Args:
        module: what the backend imports.
        kind: the site's ``compute.kind``.
        package: what brings the module.
        extra: of this package, that brings it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a package above it is not there, or is no package
        found = None
    if found is None:
        raise ConfigError(
            "the SDK of the site's compute is not installed",
            where=f"compute.kind {kind}",
            expected=f"the package {package}",
            found=f"no module {module}",
            fix=f"Install holdfast[{extra}]",
        )
