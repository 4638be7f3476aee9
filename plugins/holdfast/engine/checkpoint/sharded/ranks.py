"""The ranks of one job agree: who leads, what all of them do next, and which error all of them end with.

One primitive carries everything: each rank gives a JSON value and gets everybody's. Nothing is pickled. A rank that is
gone, or does not come within the timeout, is `RankLost` at all others. Every call here must be made by every rank.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

from pydantic import JsonValue

from holdfast.engine.checkpoint.errors import CheckpointError, RankLost
from holdfast.errors import HoldfastError

T = TypeVar("T")


class Ranks:
    """The processes of one training job.

    Args:
        rank: this process's number.
        world: how many there are.
        group: the process group they talk through; None: there is only this one.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.world = world
        self.group = group

    @classmethod
    def join(cls, *, timeout_seconds: float = 600.0) -> Ranks:
        """All ranks of the default process group, through a gloo group of their own; without one, a world of one.

        Args:
            timeout_seconds: how long a rank may be late for a call. Longer than the slowest step and the slowest
                checkpoint of one rank.

        Raises:
            RankLost: a rank did not come.
        """
        dist = _distributed()
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        with _lost():
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def leads(self) -> bool:
        """Whether this rank decides, asks the guard and commits: rank 0."""
        return self.rank == 0

    def exchange(self, value: JsonValue) -> list[Any]:
        """Everybody's value, by rank. Raises RankLost."""
        if self.group is None:
            return [value]
        data = json.dumps(value).encode()
        with _lost():
            return [json.loads(bytes(one)) for one in self._gather(data)]

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do something at every rank; its JSON result of everybody.

        Raises, at every rank alike:
            The error of the lowest rank that had one, with the rank in its `where`.
        """
        raised: BaseException | None = None
        answer: dict[str, Any]
        try:
            answer = {"value": work()}
        except HoldfastError as error:
            raised, answer = error, {"failed": told(error)}
        except Exception as error:
            raised, answer = error, {"failed": {"what": "a rank failed", "found": f"{type(error).__name__}: {error}"}}
        if self.group is None:
            if raised is not None:
                raise raised
            return [cast("T", answer["value"])]
        answers = self.exchange(answer)
        for rank, one in enumerate(answers):
            if "failed" in one:
                raise retold(one["failed"], rank) from (raised if rank == self.rank else None)
        return [one["value"] for one in answers]

    def from_leader(self, work: Callable[[], T]) -> T:
        """Do something at rank 0; its JSON result, or its error, at every rank."""
        return cast("T", self.together(lambda: work() if self.leads else None)[0])

    def most(self, numbers: Sequence[int]) -> list[int]:
        """The greatest of everybody's numbers, place by place: one small message per step. Raises RankLost."""
        if self.group is None:
            return list(numbers)
        torch, dist = importlib.import_module("torch"), _distributed()
        tensor = torch.tensor(list(numbers), dtype=torch.int64)
        with _lost():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return [int(one) for one in tensor.tolist()]

    def _gather(self, data: bytes) -> Iterator[bytes]:
        torch, dist = importlib.import_module("torch"), _distributed()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self.group)
        room = max(int(size) for size in sizes)
        mine = torch.zeros(room, dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        all_of_them = [torch.zeros(room, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(all_of_them, mine, group=self.group)
        return (one[: int(size)].numpy().tobytes() for one, size in zip(all_of_them, sizes, strict=True))


def told(error: HoldfastError) -> dict[str, str | None]:
    """An error as JSON, for another rank."""
    return error.as_dict()


def retold(facts: dict[str, str | None], rank: int | None = None) -> HoldfastError:
    """The error that another rank told, of the same kind."""
    kinds = {kind.__name__: kind for kind in _kinds(HoldfastError)}
    kind = kinds.get(facts.get("error") or "", CheckpointError)
    where = facts.get("where")
    if rank is not None:
        where = f"rank {rank}" if where is None else f"rank {rank}: {where}"
    return kind(
        facts.get("what") or "a rank failed",
        where=where,
        expected=facts.get("expected"),
        found=facts.get("found"),
        fix=facts.get("fix"),
    )


def lost(error: BaseException) -> RankLost:
    """What an error of the process group means."""
    return RankLost(
        "a rank is gone, or did not come in time",
        where="process group",
        expected="every rank at every step",
        found=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
        fix="Start the job again; it goes on from its newest checkpoint",
    )


class _lost:  # noqa: N801  # a context manager, read as `with _lost()`
    """Turns what the process group raises into RankLost."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            raise lost(error) from error


def _kinds(kind: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)


def _distributed() -> Any:
    # By name: the type checker then says the same with and without PyTorch installed.
    return importlib.import_module("torch.distributed")
