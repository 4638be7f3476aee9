"""What can be wrong with a bill, and with what is asked of it."""

from __future__ import annotations

from holdfast.errors import ConfigError, HoldfastError


class BillDamaged(HoldfastError):
    """A file of a bill is not what its cloud wrote: what the bill comes to is unknown, which is not zero."""


class NoBill(HoldfastError):
    """No bill exists for what was asked: unknown, which is not zero."""

    exit_code = 7


class PriceListInvalid(ConfigError):
    """The price list cannot be read, or says two things."""


class BillingUnavailable(HoldfastError):
    """A billing interface gave no usable answer: throttled, timed out, failing."""

    transient = True


class BillingRefused(HoldfastError):
    """A billing interface refuses: expired or narrowed credentials. What it would have said is unknown."""


class OverBudget(HoldfastError):
    """The next request would cost more than the topology allows; it was not made."""

    exit_code = 3
