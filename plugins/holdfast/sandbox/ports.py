"""Ports of a sandbox: taken once, kept for its life, apart from the range the kernel hands to outgoing connections.

A sandbox takes one block and claims it by holding the block's first port, so two sandboxes that start in the same
moment cannot pick the same ones. A part that was killed finds its port free again.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.sandbox.errors import PortTaken

HOST = "127.0.0.1"
_LOWEST, _HIGHEST, _BLOCK = 12_288, 32_704, 64


class Block(NamedTuple):
    """Consecutive ports from ``first``; the claim is a bound socket on ``first``."""

    first: int
    size: int
    claim: socket.socket


def is_free(port: int) -> bool:
    """Whether a server could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            # Binding alone succeeds beside a socket that is bound with SO_REUSEADDR and does not listen.
            probe.listen(1)
        except OSError:
            return False
    return True


def claim(port: int) -> socket.socket | None:
    """Hold a port without listening on it; ``None`` when somebody else has it."""
    holder = socket.socket()
    try:
        holder.bind((HOST, port))
    except OSError:
        holder.close()
        return None
    holder.set_inheritable(True)
    return holder


def claim_block(needed: int, rng: random.Random | None = None) -> Block:
    """A free block for so many ports.

    Raises:
        PortTaken: no free block was found.
    """
    # Seeded by the system, not by a caller's seed: two sandboxes must not try the same blocks in the same order.
    rng = rng or random.SystemRandom()
    size = _BLOCK * -(-(needed + 1) // _BLOCK)
    starts = list(range(_LOWEST, _HIGHEST - size, size))
    rng.shuffle(starts)
    for first in starts:
        holder = claim(first)
        if holder is None:
            continue
        if all(is_free(port) for port in range(first + 1, first + needed + 1)):
            return Block(first, size, holder)
        holder.close()
    raise PortTaken(
        f"no {needed} consecutive free ports",
        where=HOST,
        expected=f"between {_LOWEST} and {_HIGHEST}",
        found="all blocks in use",
        fix="Stop other sandboxes: holdfast sandbox down",
    )


def assign(names: Sequence[str], block: Block) -> dict[str, int]:
    """Give each name a port of the block, after the claimed one."""
    return {name: block.first + 1 + index for index, name in enumerate(names)}


def free_port() -> int:
    """Any free port, for something short-lived."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
