"""Who may submit the next attempt, where the service itself would take two jobs of one name.

The sequence, all of it in the site's bucket:

1. A submitter sees that no job of the name lives and that the newest claim is *spent*: its job is known, its claimant
   gave it back, or nothing of it appeared within the claim time by the store's own clock.
2. It creates the claim of the next attempt. Whoever loses that race asks again later.
3. It submits, within half the claim time by its own monotonic clock, or not at all.
4. It looks whether somebody took the claim for spent after all (a pause between 3 and the service): then its own job is
   the one that goes.
5. A submit that was refused for certain gives the claim back, so that nobody waits for it.

A process may stop between any two instructions, so 3 and 4 leave an instant in which two jobs of one epoch can be
started; 4, or the next submit, ends one. Until then both write manifests under create-only keys: the first one stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.clock import Clock
from holdfast.engine.compute.errors import ComputeUnavailable
from holdfast.engine.compute.interface import JobSpec
from holdfast.engine.compute.remote import claim_age_seconds, claim_attempt, claim_key, newest_claimed
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE, ObjectStore

_GIVEN_BACK = ".given-back"


@dataclass(frozen=True, slots=True)
class Turn:
    """An attempt this process may submit until ``until``, by its monotonic clock."""

    attempt: int
    until: float


class Claims:
    """The claims of a site's jobs.

    Args:
        store: the site's bucket.
        holder: who claims. One submit is one holder: what an earlier one of the same process did is not known either.
        claim_seconds: after which a claim without a job is spent. Well above what a submit takes.
        clock: for this process's own deadline.
    """

    def __init__(self, store: ObjectStore, *, holder: Callable[[], str], claim_seconds: float, clock: Clock) -> None:
        self._store, self._holder = store, holder
        self._claim_seconds, self._clock = claim_seconds, clock

    def take(self, spec: JobSpec, known: int) -> Turn:
        """The turn of the next attempt.

        Args:
            known: the newest attempt whose job the service shows; 0: none.

        Raises:
            ComputeUnavailable: somebody else's turn may still bring a job.
            ObjectStoreError: the bucket does not answer.
        """
        until = self._clock.monotonic() + self._claim_seconds / 2
        newest = self.newest(spec)
        if newest > known and not self._is_spent(spec, newest):
            raise self._someone_elses(spec, newest)
        attempt = max(newest, known) + 1
        if not claim_attempt(self._store, spec, attempt, holder=self._holder()).mine:
            raise self._someone_elses(spec, attempt)
        return Turn(attempt, until)

    def is_over(self, turn: Turn) -> bool:
        """Whether it is too late to submit."""
        return self._clock.monotonic() >= turn.until

    def give_back(self, spec: JobSpec, turn: Turn) -> None:
        """It is certain that nothing was started. Raises ObjectStoreError."""
        with contextlib.suppress(ObjectExists):
            self._store.put(f"{self._key(spec, turn.attempt)}{_GIVEN_BACK}", b"", mode=CREATE)

    def newest(self, spec: JobSpec) -> int:
        """The newest attempt anybody claimed; 0: none."""
        return newest_claimed(self._store, spec.run, spec.epoch)

    def _is_spent(self, spec: JobSpec, attempt: int) -> bool:
        key = self._key(spec, attempt)
        with contextlib.suppress(ObjectNotFound):
            self._store.head(f"{key}{_GIVEN_BACK}")
            return True
        return claim_age_seconds(self._store, key) >= self._claim_seconds

    def _key(self, spec: JobSpec, attempt: int) -> str:
        return claim_key(spec.run, spec.epoch, attempt)

    def _someone_elses(self, spec: JobSpec, attempt: int) -> ComputeUnavailable:
        return ComputeUnavailable(
            "another submitter has the turn; no second job was started",
            where=self._key(spec, attempt),
            expected="its job, or the end of its turn",
            found=f"a claim, younger than {self._claim_seconds:g} s, whose job the service does not show yet",
            fix="Submit again: it then finds the job, or takes the next turn",
        )
