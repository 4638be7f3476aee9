"""What a site's bucket holds, by a reading of the format that shares no code with the engine's election.

Everything is read once into memory, then asked: which checkpoints are of an epoch's lineage, which of them are whole,
and which one a run must go on from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from blake3 import blake3

from faults.training.stores import RUN
from holdfast.engine.objectstore import ObjectStore

_MANIFEST = re.compile(rf"^runs/{re.escape(RUN)}/checkpoints/\d{{12}}\.\d{{6}}\.json$")


@dataclass(frozen=True)
class Checkpoint:
    """A manifest that can be read."""

    key: str
    digest: str
    told: Mapping[str, Any]

    @property
    def order(self) -> tuple[int, int]:
        return self.told["step"], self.told["epoch"]

    @property
    def content(self) -> tuple[Any, ...]:
        """All of the state, by digests: equal for two checkpoints exactly if the runs are the same there."""
        return self.told["step"], self.told["model_digest"], self.told["blobs"], self.told["state"]


@dataclass(frozen=True)
class Site:
    """A site's bucket at one moment.

    Args:
        known: every checkpoint ever seen, anywhere: who descends from whom is known even where a manifest was lost.
    """

    name: str
    objects: Mapping[str, bytes]
    known: dict[str, Checkpoint] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, store: ObjectStore, known: dict[str, Checkpoint]) -> Site:
        site = cls(name, {info.key: store.get(info.key) for info in store.list("")}, known)
        known.update(site.checkpoints)
        return site

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """By digest."""
        found = {}
        for key, data in self.objects.items():
            if _MANIFEST.match(key):
                try:
                    told = json.loads(data)
                    assert told["format"] == "holdfast.checkpoint/1"
                    told["step"], told["epoch"], told["blobs"], told["parent"], told["model_digest"], told["state"]
                except (ValueError, KeyError, TypeError, AssertionError):
                    continue
                digest = f"blake3:{blake3(data).hexdigest()}"
                found[digest] = Checkpoint(key, digest, told)
        return found

    def missing(self, checkpoint: Checkpoint) -> list[str]:
        """The keys of its blobs that are not there, or are not what they should be."""
        keys = []
        for reference in checkpoint.told["blobs"].values():
            key = f"runs/{RUN}/blobs/{reference['digest'].replace(':', '-')}"
            data = self.objects.get(key)
            if data is None or f"blake3:{blake3(data).hexdigest()}" != reference["digest"]:
                keys.append(key)
        return keys

    def knows(self, epoch: int) -> bool:
        """Whether an election for this epoch is possible here."""
        return epoch == 1 or self._fork_key(epoch) in self.objects

    def lineage(self, epoch: int) -> set[str]:
        """Digests of the checkpoints that ``epoch`` descends from or wrote."""
        line = {digest for digest, one in self.checkpoints.items() if one.told["epoch"] == epoch}
        if epoch > 1:
            forked_from = json.loads(self.objects[self._fork_key(epoch)])["forked_from"]
            line |= self.ancestry(forked_from, before=epoch)
        return line

    def ancestry(self, digest: str | None, *, before: int) -> set[str]:
        """A checkpoint and all it descends from, as far as they are known and older than an epoch."""
        line: set[str] = set()
        ahead = [digest] if digest else []
        while ahead:
            one = self.known.get(ahead.pop())
            if one is not None and one.digest not in line and one.told["epoch"] < before:
                line.add(one.digest)
                ahead += [*one.told["ancestors"], *([one.told["parent"]] if one.told["parent"] else [])]
        return line

    def verified(self, epoch: int) -> Iterator[Checkpoint]:
        """Those of the lineage that are whole here and, when they came from elsewhere, were read back here."""
        for digest in self.lineage(epoch) & self.checkpoints.keys():
            one = self.checkpoints[digest]
            if not self.missing(one) and (one.told["site"] == self.name or self._has_receipt(one)):
                yield one

    def best(self, epoch: int) -> Checkpoint | None:
        """What a run must go on from in this epoch: the epoch's own newest, else the newest before."""
        own = [one for one in self.verified(epoch) if one.told["epoch"] == epoch]
        return max(own or list(self.verified(epoch)), key=lambda one: one.order, default=None)

    def _fork_key(self, epoch: int) -> str:
        return f"runs/{RUN}/epochs/{epoch:06d}.json"

    def _has_receipt(self, one: Checkpoint) -> bool:
        data = self.objects.get(f"receipts/{RUN}/{one.digest.replace(':', '-')}/{self.name}.json")
        if data is None:
            return False
        told = json.loads(data)
        return (told["manifest"], told["site"]) == (one.digest, self.name)
