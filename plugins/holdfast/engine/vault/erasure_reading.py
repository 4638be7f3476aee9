"""Shares in, bytes out: what two sites say of an object, ranges of its pieces, and decoding where one is gone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from blake3 import blake3

from holdfast.engine.objectstore.errors import ObjectNotFound, StoreUnavailable
from holdfast.engine.vault.erasure_sites import Answer, ErasureSite, Problems, Sites, get_range
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.shares import Description, Scheme, decode, parse_share

#: What is read of a share to learn its description: holds that of a pack of 16 MiB five times over.
_BEGINNING_BYTES = 32 * 1024
_KEPT = 1024


class ShareReader:
    """Reads objects that lie in shares. Safe to use from many threads.

    Args:
        problems: what was found damaged, missing or away.
    """

    def __init__(self, sites: Sites, scheme: Scheme, name: str, problems: Problems) -> None:
        self._sites, self._scheme, self._name, self._problems = sites, scheme, name, problems
        self._known: OrderedDict[str, Description] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self, key: str | None = None) -> None:
        """An object was written or removed; ``None``: any may have been."""
        with self._lock:
            if key is None:
                self._known.clear()
            else:
                self._known.pop(key, None)

    def described(self, key: str) -> Description:
        """What the shares of an object are, as two sites say, or as the only one says that still can.

        Raises:
            ObjectNotFound: so many sites have none that nobody could read it.
            StoreUnavailable, Damaged: it cannot be told.
        """
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        found = self._agreed(key)
        with self._lock:
            self._known[key] = found
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def whole(self, key: str) -> bytes:
        """An object, compared with its digest. Raises as `described`."""
        described = self.described(key)
        data = self.part(key, described, 0, described.size_bytes)
        if blake3(data).digest() != described.digest:
            raise Damaged("the object is not the one its shares describe", where=f"{self._name}: {key}")
        return data

    def part(self, key: str, described: Description, start: int, end: int) -> bytes:
        """The bytes of a range, from the pieces it touches. Raises StoreUnavailable, Damaged."""
        size = described.piece_bytes
        wanted = [
            (number, max(start - number * size, 0), min(end - number * size, size))
            for number in range(self._scheme.needed)
            if start < end and start < (number + 1) * size and end > number * size
        ]
        return b"".join(self._sites.parallel(wanted, lambda one: self._of_piece(key, described, *one)))

    def _agreed(self, key: str) -> Description:
        sites = self._sites.awake_first()
        answers = list(self._sites.parallel(sites[:2], lambda site: self._describe(site, key)))
        groups = _groups(answers)
        while len(answers) < len(sites) and (not groups or len(groups[0]) < 2):
            answers.append(self._describe(sites[len(answers)], key))
            groups = _groups(answers)
        lost = sum(answer.is_missing for answer in answers)
        if lost > self._scheme.total - self._scheme.needed:
            raise ObjectNotFound("no object has this key", where=f"{self._name}: {key}")
        if not groups:
            raise self._unreadable(key, answers)
        if len(groups) > 1 and len(groups[0]) == len(groups[1]):
            raise Damaged(
                "the sites say different things of an object",
                where=f"{self._name}: {key}",
                expected="two sites that agree",
                found=", ".join(answer.site.name for group in groups for answer in group),
                fix="Repair the vault while all sites answer",
            )
        for answer in answers:
            if answer not in groups[0]:
                self._note(answer, key, "its description is damaged or another one")
        found = groups[0][0].value
        assert isinstance(found, Description)
        return found

    def _describe(self, site: ErasureSite, key: str) -> Answer:
        where = f"{site.name}: {key}"
        wanted = _BEGINNING_BYTES
        for _ in range(2):
            answer = site.ask(get_range(0, wanted, key))
            if answer.error is not None:
                return answer
            try:
                found = parse_share(answer.value, self._scheme, site.number, where)
            except Damaged as damaged:
                return Answer(site, damaged)
            if not isinstance(found, int):
                return Answer(site, found)
            wanted = found
        return Answer(site, Damaged("the share is cut short", where=where, expected=f"{wanted} bytes"))

    def _of_piece(self, key: str, described: Description, number: int, start: int, end: int) -> bytes:
        """A range of a piece: from its own site, or decoded from others."""
        first, last = described.blocks(start, end)
        site = self._sites.all[number]
        data = None if site.rests else self._blocks(site, key, described, first, last)
        if data is None:
            data = self._decoded(key, described, number, first, last)
        return data[start - first : end - first]

    def _decoded(self, key: str, described: Description, number: int, first: int, last: int) -> bytes:
        pieces: dict[int, bytes] = {}
        own = self._sites.all[number]
        # The piece's own site may have woken: it is asked when the others cannot help.
        for site in (*(one for one in self._sites.awake_first() if one is not own), own):
            data = self._blocks(site, key, described, first, last)
            if data is None:
                continue
            if site is own:
                return data
            pieces[site.number] = data
            if len(pieces) == self._scheme.needed:
                return decode(self._scheme, pieces)[number]
        raise self._too_few(key, pieces)

    def _blocks(self, site: ErasureSite, key: str, described: Description, first: int, last: int) -> bytes | None:
        """Whole blocks of a site's share, checked; ``None``, and noted: it cannot give them."""
        offset = described.payload_offset
        answer = site.ask(get_range(offset + first, offset + last, key))
        if answer.error is None:
            data: bytes = answer.value
            if len(data) == last - first and described.is_good(site.number, first, data):
                return data
        self._note(answer, key, "its share is damaged")
        return None

    def _note(self, answer: Answer, key: str, damage: str) -> None:
        if answer.is_away:
            self._problems.add(answer.site.name, "", "does not answer")
        else:
            self._problems.add(answer.site.name, key, "missing" if answer.is_missing else damage)

    def _too_few(self, key: str, pieces: Mapping[int, bytes]) -> Damaged | StoreUnavailable:
        away = ", ".join(site.name for site in self._sites.all if site.rests)
        where, expected = f"{self._name}: {key}", f"{self._scheme.needed} sites with good shares"
        if away:
            return StoreUnavailable(
                "too few sites answer", where=where, expected=expected, found=f"{len(pieces)}; away: {away}"
            )
        return Damaged(
            "too few shares are good",
            where=where,
            expected=expected,
            found=str(len(pieces)),
            fix="Put the object back from a mirror",
        )

    def _unreadable(self, key: str, answers: Sequence[Answer]) -> StoreUnavailable | Damaged:
        if any(answer.is_away for answer in answers):
            return unavailable(self._name, "get", key, answers, self._scheme)
        return Damaged(
            "no share of it can be read",
            where=f"{self._name}: {key}",
            found="; ".join(str(answer.value or answer.error) for answer in answers),
            fix="Put the object back from a mirror",
        )


def _groups(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Those that describe an object alike, the largest group first."""
    said: dict[bytes, list[Answer]] = {}
    for answer in answers:
        if isinstance(answer.value, Description):
            said.setdefault(answer.value.data, []).append(answer)
    return sorted(said.values(), key=len, reverse=True)


def unavailable(
    name: str, verb: str, key: str, answers: Sequence[Answer], scheme: Scheme, *, outcome_unknown: bool = False
) -> StoreUnavailable:
    """The error when too few sites answer."""
    away = "; ".join(f"{answer.site.name}: {answer.error}" for answer in answers if answer.is_away)
    return StoreUnavailable(
        "too few sites answer",
        where=f"{name}: {verb} {key}",
        expected=f"{scheme.needed} of {scheme.total}",
        found=away or "too few copies",
        outcome_unknown=outcome_unknown,
    )
