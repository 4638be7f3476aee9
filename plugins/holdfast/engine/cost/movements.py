"""What each sync brought to a site, from the receipts of replicas.

A receipt says what was read back where it landed, which is what was copied, where all of it was read back. Where the
stores' own checksums stood for that (`provider`), or only a sample was read, the copy lies between what was read back
and the whole snapshot: both bounds are told, and neither is taken for the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from holdfast.engine.cost.periods import Period
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore
from holdfast.engine.snapshot.receipts import Receipt

_READERS = 16


@dataclass(frozen=True, slots=True)
class Movement:
    """What one sync brought to one site.

    Args:
        least_bytes, most_bytes: that were copied, equal where all was read back.
        read_back_bytes: that the target's store gave out again to be hashed.
    """

    subject: str
    item: str
    source: str
    target: str
    at: datetime
    least_bytes: int
    most_bytes: int
    read_back_bytes: int
    objects: int = 0

    @classmethod
    def of_receipt(cls, receipt: Receipt) -> Movement:
        unseen = receipt.provider_objects + receipt.written_objects
        return cls(
            receipt.subject,
            receipt.item,
            receipt.source_site,
            receipt.site,
            receipt.verified_at,
            receipt.read_back_bytes,
            receipt.size_bytes if unseen else receipt.read_back_bytes,
            receipt.read_back_bytes,
            max(receipt.object_count - receipt.carried_objects, 0),
        )


@dataclass(frozen=True)
class Movements:
    """All movements of a time, and where they could not be read: then they are too few."""

    found: tuple[Movement, ...]
    unreadable: tuple[str, ...] = ()


def read_movements(stores: Mapping[str, ObjectStore], period: Period) -> Movements:
    """The movements of a period, from the receipts at every site."""
    found: list[Movement] = []
    unreadable: list[str] = []
    for site, store in sorted(stores.items()):
        try:
            # A receipt is written within minutes of what it says; two clocks may differ by more.
            begin, end = period.start - timedelta(days=1), period.end + timedelta(days=1)
            infos = [one for one in store.list("receipts/") if begin <= one.modified_at < end]
            with ThreadPoolExecutor(_READERS) as pool:
                receipts = list(pool.map(lambda info, at=store: _receipt(at, info), infos))
        except ObjectStoreError as error:
            unreadable.append(f"{site}: {error}")
            continue
        broken = [info.key for info, receipt in zip(infos, receipts, strict=True) if receipt is None]
        unreadable += [f"{site}: {key} is no receipt" for key in broken]
        found += [
            Movement.of_receipt(receipt)
            for receipt in receipts
            if receipt is not None and receipt.site == site and period.start <= receipt.verified_at < period.end
        ]
    return Movements(tuple(sorted(found, key=lambda one: (one.at, one.subject, one.target))), tuple(unreadable))


def _receipt(store: ObjectStore, info: ObjectInfo) -> Receipt | None:
    try:
        return Receipt.model_validate_json(store.get(info.key))
    except ValidationError:
        return None


def intervals(movements: Sequence[Movement], subject: str, target: str) -> list[Movement]:
    """The movements of one dataset to one site, in their order."""
    return [one for one in movements if (one.subject, one.target) == (subject, target)]
