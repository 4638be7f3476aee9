"""Where clients are sent: the record followed through DNS, as a client follows it."""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

from holdfast.engine.config import Record
from holdfast.engine.traffic.interface import TrafficError
from holdfast.errors import ConfigError


class Address(NamedTuple):
    """Where to connect.

    Args:
        host: an IPv4 address.
        port: from an SRV record; ``None`` where the record names none.
    """

    host: str
    port: int | None


class NotResolved(TrafficError):
    """DNS gave no address: no such name, no such record, or no answer in time."""

    transient = True


def resolve_service(
    record: Record, *, resolver: str | None, timeout: float, rng: random.Random | None = None
) -> list[Address]:
    """Ask DNS where the service is: SRV, then the addresses of its targets; or A, through CNAMEs.

    Nothing is kept between calls, so no answer outlives its TTL here; the resolver may keep one that long.

    Args:
        resolver: ``host:port``, where host is an IP address; ``None``: the system's.
        timeout: seconds for everything.
        rng: picks among SRV records of one priority by weight (RFC 2782).

    Returns:
        The addresses in the order to try them.

    Raises:
        NotResolved: DNS gave no address.
        ConfigError: ``resolver`` is no ``host:port``.
    """
    import dns.exception
    import dns.resolver

    asking = _resolver(resolver, timeout)
    deadline = time.monotonic() + timeout

    def ask(name: str, kind: str) -> list[Any]:
        return list(asking.resolve(name, kind, search=False, lifetime=max(0.001, deadline - time.monotonic())))

    try:
        if record.type != "SRV":
            return [Address(str(one.address), None) for one in ask(record.name, "A")]
        found = []
        for target, port in _in_order(ask(record.name, "SRV"), rng or random.Random()):  # noqa: S311 - no secret
            found += [Address(str(one.address), port) for one in ask(target, "A")]
    except dns.exception.DNSException as error:
        raise NotResolved(
            "DNS has no address for the service",
            where=f"{record.name} {record.type}",
            expected=f"an answer of {resolver or 'the system resolver'} within {timeout:g} s",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return found


def _resolver(address: str | None, timeout: float) -> Any:
    import dns.resolver

    if address is None:
        resolver = dns.resolver.Resolver()
    else:
        host, _, port = address.rpartition(":")
        resolver = dns.resolver.Resolver(configure=False)
        try:
            resolver.nameservers = [host]
            resolver.port = int(port)
        except ValueError:
            raise ConfigError(
                "not a resolver's address",
                where="resolver",
                expected="host:port, host an IP address",
                found=repr(address),
            ) from None
    resolver.timeout = timeout / 2  # one lost datagram is asked again
    resolver.cache = None
    return resolver


def _in_order(records: list[Any], rng: random.Random) -> list[tuple[str, int]]:
    """SRV targets by priority, within one by weight at random (RFC 2782)."""
    ordered = []
    for priority in sorted({one.priority for one in records}):
        left = [one for one in records if one.priority == priority]
        while left:
            chosen = rng.choices(left, weights=[one.weight + 0.001 for one in left])[0]
            left.remove(chosen)
            ordered.append((chosen.target.to_text(), int(chosen.port)))
    return ordered
