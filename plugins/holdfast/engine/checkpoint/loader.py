"""A torch DataLoader whose batches depend on (seed, epoch, index) alone: not on workers, prefetching or a resume.

What torch's own loader hides does not decide anything here: the order comes from a `DataOrder`, a sample's randomness
from its own generator, and the position is that of the batches handed out, never of those the workers have prefetched.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from holdfast.engine.checkpoint.order import Batch, DataOrder, Position, sample_rng

Augment = Callable[[Any, Any], Any]


class _Keyed:
    """A map-style dataset asked by (epoch, sample); importable, so that workers can be spawned as well as forked."""

    def __init__(self, dataset: Any, seed: int, augment: Augment | None, keyed: bool) -> None:
        self._dataset, self._seed, self._augment, self._by_key = dataset, seed, augment, keyed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        sample = self._dataset[key if self._by_key else key[1]]
        return sample if self._augment is None else self._augment(sample, sample_rng(self._seed, *key))


class TorchLoader:
    """Iterates over batches; `position` is that after the last batch handed out, and goes into the checkpoint.

    Keep ``loader.state()`` in `TorchAdapter`'s ``extra`` and give ``loader.load_state`` as its ``load_extra``. A new
    iteration begins at `position`.
    """

    def __init__(self, make: Callable[[list[Batch] | Iterator[Batch]], Any], order: DataOrder, **split: Any) -> None:
        self._make, self._order, self._split = make, order, split
        self.position = split.pop("start")

    def __iter__(self) -> Iterator[Any]:
        # One generator twice over: the loader's sampler runs ahead by what is prefetched, the position does not.
        ahead = self._order.batches(start=self.position, **self._split)
        handed_out = self._order.batches(start=self.position, **self._split)
        for data, batch in zip(self._make(ahead), handed_out, strict=True):
            self.position = batch.next
            yield data

    def state(self) -> dict[str, JsonValue]:
        """The four integers of `DataOrder.state`."""
        return self._order.state(self.position)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on there with the next iteration. Raises CheckpointError: a position of another order."""
        self.position = self._order.position(state)


def torch_loader(
    dataset: Any,
    order: DataOrder,
    *,
    batch_size: int,
    workers: int = 0,
    position: Position | None = None,
    augment: Augment | None = None,
    keyed: bool = False,
    rank: int = 0,
    world: int = 1,
    epochs: int | None = None,
    drop_last: bool = False,
    **options: Any,
) -> TorchLoader:
    """Batches of a map-style dataset in the order of ``order``, the same with any number of workers and any resume.

    Args:
        dataset: ``dataset[sample]`` must draw from no global generator.
        batch_size: samples of all ranks together, see `DataOrder.batches`.
        workers: processes that load ahead; they are started by each iteration.
        augment: ``augment(sample, rng)`` with the sample's own generator for this epoch.
        keyed: ask ``dataset[(epoch, sample)]`` instead, for one that derives its own randomness with `sample_rng`.
        epochs: end before this epoch; None: the loop of the trainer ends it.
        options: of ``torch.utils.data.DataLoader``, e.g. ``pin_memory``, ``collate_fn``, ``prefetch_factor``.

    Raises:
        ConfigError: a split that cannot be; a dataset of another length than the order.
    """
    from holdfast.errors import ConfigError

    if len(dataset) != order.length:
        raise ConfigError(
            "the dataset has another length than its order",
            where="torch_loader",
            expected=f"{order.length} samples",
            found=str(len(dataset)),
        )
    torch = importlib.import_module("torch")
    data = importlib.import_module("torch.utils.data")

    def make(batches: Any) -> Any:
        return data.DataLoader(
            _Keyed(dataset, order.seed, augment, keyed),
            batch_sampler=_keys(batches),
            num_workers=workers,
            # Its own, because the loader would draw its workers' seeds from the global one at each iteration.
            generator=torch.Generator().manual_seed(0),
            **options,
        )

    split = {"batch_size": batch_size, "rank": rank, "world": world, "epochs": epochs, "drop_last": drop_last}
    start = position or Position()
    order.batches(start=start, **split)  # type: ignore[arg-type]  # refuses now what it would refuse at the first batch
    return TorchLoader(make, order, start=start, **split)


def _keys(batches: Iterator[Batch]) -> Iterator[list[tuple[int, int]]]:
    for batch in batches:
        yield [(batch.epoch, sample) for sample in batch.samples.tolist()]
