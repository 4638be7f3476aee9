"""The order of the samples as a function of (seed, epoch, index), so that a resume needs a position and no generator.

The permutation of an epoch is a format-preserving cipher, evaluated where it is asked for: nothing of the length of the
data is held in memory, and sample 700,000,000 costs as much as sample 0. It is the generalised Feistel network over
``a * b`` with cycle walking of J. Black and P. Rogaway, *Ciphers with Arbitrary Finite Domains* (CT-RSA 2002), eight
rounds, its round function the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014) with round keys from
SHA-256. All of it is integer arithmetic modulo 2**64, hence the same on every platform; golden values are in the tests.
It shuffles well; it keeps no secret.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from holdfast.engine.checkpoint.errors import CheckpointError
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROUNDS = 8
#: The largest integer that every JSON reader gives back as it was.
_MOST = 2**53 - 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a run is in its data: ``index`` samples of ``epoch`` are done."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that are trained on together.

    Args:
        epoch: which pass over the data, counted from 0.
        samples: numbers of the samples in the data set, of this rank alone, shape ``(size,)``.
        next: the position after this batch, the same at every rank.
    """

    epoch: int
    samples: NDArray[np.int64]
    next: Position


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The order of ``length`` samples in each epoch.

    Args:
        length: number of samples.
        seed: of the run.
        shuffle: a new permutation per epoch; False: as they lie, each epoch.

    Raises:
        ConfigError: a length below 1, or a seed that JSON cannot carry exactly.
    """

    length: int
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name, value, least in (("length", self.length, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
                raise ConfigError(
                    f"a data order needs another {name}",
                    where=f"DataOrder({name}=…)",
                    expected=f"an integer from {least} to 2**53 - 1",
                    found=repr(value),
                )

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The whole permutation of an epoch, shape ``(length,)``. `samples` gives a part of it for that part's cost."""
        return self.samples(epoch, 0, self.length)

    def samples(self, epoch: int, begin: int, end: int) -> NDArray[np.int64]:
        """Samples ``begin`` to ``end`` (exclusive) of an epoch's order, clipped to its length."""
        import numpy as np

        places = np.arange(max(0, begin), min(end, self.length), dtype=np.uint64)
        if self.shuffle and self.length > 1:
            places = _permuted(places, self.length, _round_keys(self.seed, epoch))
        return places.astype(np.int64)

    def batches(
        self,
        batch_size: int,
        start: Position | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        epochs: int | None = None,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Batches from a position on, for one rank of a world.

        The batches of all ranks together are the same whatever the world: rank r takes every world-th sample from the
        r-th on. So a run on four ranks goes on with two.

        Args:
            batch_size: samples of all ranks together.
            start: from a checkpoint; None: the beginning.
            epochs: end before this epoch; None: never.
            drop_last: leave out an epoch's last batch when it is not full; else it is smaller.

        Raises:
            ConfigError: ranks would get unequal parts, or a size or position that cannot be.
        """
        self._check_split(batch_size, rank, world, drop_last)
        return self._batches(batch_size, self._checked(start or Position()), rank, world, epochs, drop_last)

    def _batches(
        self, batch_size: int, at: Position, rank: int, world: int, epochs: int | None, drop_last: bool
    ) -> Iterator[Batch]:
        usable = self.length - self.length % batch_size if drop_last else self.length
        epoch, index = at.epoch, at.index
        while True:
            if index >= usable:
                epoch, index = epoch + 1, 0
            if epochs is not None and epoch >= epochs:
                return
            end = min(index + batch_size, usable)
            yield Batch(epoch, self.samples(epoch, index, end)[rank::world], Position(epoch, end))
            index = end

    def state(self, position: Position) -> dict[str, JsonValue]:
        """Four integers for a checkpoint: length, seed, epoch, index."""
        return {"length": self.length, "seed": self.seed, "epoch": position.epoch, "index": position.index}

    def position(self, state: Mapping[str, Any]) -> Position:
        """The position that `state` told.

        Raises:
            CheckpointError: it is of another order: the run would see some samples twice and others never.
        """
        ours = {"length": self.length, "seed": self.seed}
        theirs = {name: state.get(name) for name in ours}
        if theirs != ours:
            raise CheckpointError(
                "the checkpoint's position is in another data order",
                where="DataOrder.position",
                expected=str(ours),
                found=str(theirs),
                fix="Resume with the data and the seed the run began with",
            )
        try:
            return self._checked(Position(state["epoch"], state["index"]))
        except (KeyError, ConfigError) as error:
            raise CheckpointError(
                "the checkpoint's position cannot be one", where="DataOrder.position", found=str(error)
            ) from None

    def _checked(self, position: Position) -> Position:
        numbers = (position.epoch, position.index)
        whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers)
        if not whole or position.index > self.length:
            raise ConfigError(
                "no such position in the data",
                where="DataOrder",
                expected=f"an epoch from 0 on and an index from 0 to {self.length}",
                found=repr(numbers),
            )
        return position

    def _check_split(self, batch_size: int, rank: int, world: int, drop_last: bool) -> None:
        if batch_size < 1 or not 0 <= rank < world or (drop_last and batch_size > self.length):
            raise ConfigError(
                "no such split of the data",
                where="DataOrder.batches",
                expected="a batch size from 1 on, not above the data's length with drop_last, and a rank below world",
                found=f"batch_size={batch_size}, rank={rank}, world={world}, length={self.length}",
            )
        last = 0 if drop_last else self.length % batch_size
        if batch_size % world or last % world:
            raise ConfigError(
                "the ranks would get unequal parts of a batch",
                where="DataOrder.batches",
                expected=f"a batch size, and a last batch, that {world} ranks can share",
                found=f"batches of {batch_size}, the last of {last or batch_size}",
                fix="Choose a multiple of the world size, and drop_last=True when the epoch does not come out even",
            )


def sample_key(seed: int, epoch: int, index: int) -> int:
    """128 bits that depend on nothing but the three numbers: the key of one sample's randomness in one epoch."""
    return _digest("sample", seed, epoch, index) >> 128


def rank_key(seed: int, step: int, rank: int) -> int:
    """128 bits for a rank that goes on after ``step`` in a world the generators were not saved for."""
    return _digest("rank", seed, step, rank) >> 128


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """A generator for the augmentation of one sample in one epoch, whichever process asks for it.

    NumPy's Philox (J. Salmon et al., SC 2011), whose stream NumPy promises not to change; what `Generator` makes of
    the stream may change with NumPy's version, which is therefore in a checkpoint's fingerprint.
    """
    import numpy as np

    return np.random.Generator(np.random.Philox(key=sample_key(seed, epoch, index)))


def torch_generator(seed: int, epoch: int, index: int) -> Any:
    """The same for torch: a CPU ``torch.Generator``. Its own seeding uses 32 bits of the key."""
    import importlib

    return importlib.import_module("torch").Generator().manual_seed(sample_key(seed, epoch, index) & 0xFFFFFFFF)


def _digest(*parts: str | int) -> int:
    return int.from_bytes(hashlib.sha256(":".join(("holdfast", *map(str, parts))).encode()).digest(), "big")


def _round_keys(seed: int, epoch: int) -> list[int]:
    return [_digest("order", seed, epoch, number) & (2**64 - 1) for number in range(_ROUNDS)]


def _permuted(places: NDArray[np.uint64], length: int, keys: list[int]) -> NDArray[np.uint64]:
    """Encipher within the smallest ``a * b`` that holds ``length``; whoever falls outside walks on until it is in."""
    import numpy as np

    a = math.isqrt(length - 1) + 1
    b = -(-length // a)
    result = _feistel(places, a, b, keys)
    outside = np.flatnonzero(result >= length)
    while outside.size:
        result[outside] = _feistel(result[outside], a, b, keys)
        outside = outside[result[outside] >= length]
    return result


def _feistel(values: NDArray[np.uint64], a: int, b: int, keys: list[int]) -> NDArray[np.uint64]:
    import numpy as np

    left, right = values % np.uint64(a), values // np.uint64(a)
    sizes = (a, b)
    for number, key in enumerate(keys):
        size = np.uint64(sizes[number % 2])
        left, right = right, (left + _mixed(right, key) % size) % size
    return left + np.uint64(a) * right


def _mixed(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    import numpy as np

    x = values * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
