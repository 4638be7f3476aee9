"""What a key service can say is wrong."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class KeyServiceError(HoldfastError):
    """A cloud's key service did not do what it was asked.

    Args:
        code: the service's own word for it, e.g. ``DisabledException`` or ``403``.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        code: str = "",
    ) -> None:
        self.code = code
        super().__init__(what, where=where, expected=expected, found=found, fix=fix)


class KeyServiceRefused(KeyServiceError):
    """A cloud's key service will not use the key: no right, disabled, being deleted. Another key may serve."""

    exit_code = 3


class KeyServiceUnavailable(KeyServiceError):
    """A cloud's key service does not answer, or its answer came damaged. Another key may serve."""

    transient = True


def not_installed(package: str, where: str, error: ImportError) -> KeyServiceRefused:
    """A service's SDK is not on this machine: other keys may serve."""
    return KeyServiceRefused(
        "the key service's client is not installed here", where=where, expected=package, found=str(error)
    )
