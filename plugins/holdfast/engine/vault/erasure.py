"""A vault at several sites at once: packs as shares of which any k of m bring them back, all else as full copies.

The first site decides what is created: nothing is written while it is away. Any one site (with 2 of 3) may be away or
damaged for everything else. What could not be written at another site is told and completed by `erasure_repair`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from holdfast.clock import Clock
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import (
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    Create,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault import layout
from holdfast.engine.vault.erasure_reading import ShareReader, unavailable
from holdfast.engine.vault.erasure_sites import Answer, ErasureSite, Problems, ShareProblem, Sites
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.shares import Scheme, make_shares

_WINDOW_BYTES = 8 * 1024 * 1024
#: Written anew now and then, and nothing depends on it: sites may differ.
HINTS = (layout.HEAD,)


def is_pack(key: str) -> bool:
    """What is stored as shares by default."""
    return key.startswith(layout.PACKS)


class ErasureStore:
    """An `ObjectStore` over several of them. Versions are not compared: what lies here is written once.

    Args:
        sites: name and store of each, in order: the order says which share lies where and is part of the repository.
            The first decides what is created.
        needed: how many shares bring an object back.
        is_shared: by key, what is stored as shares.
        clock: how long a site that did not answer is left out.
        left_out: names of sites that are not asked at all, as if they were lost.

    Raises:
        ConfigError: fewer sites than make sense, or two of one name.
    """

    def __init__(
        self,
        sites: Sequence[tuple[str, ObjectStore]],
        *,
        needed: int = 2,
        is_shared: Callable[[str], bool] = is_pack,
        clock: Clock | None = None,
        left_out: Container[str] = (),
    ) -> None:
        self.scheme = Scheme(needed, len(sites))
        self.sites = Sites(sites, clock, left_out=left_out)
        self._clock = clock
        self.is_shared = is_shared
        self._problems, self._incomplete = Problems(), Problems()
        self.shares = ShareReader(self.sites, self.scheme, self.name, self._problems)

    def __repr__(self) -> str:
        return f"<ErasureStore {self.name}>"

    @property
    def name(self) -> str:
        return f"{self.scheme.needed} of {', '.join(site.name for site in self.sites.all)}"

    def without(self, names: Container[str]) -> ErasureStore:
        """The same store as if these sites were lost: nothing is read from them."""
        sites = [(site.name, site.store) for site in self.sites.all]
        return ErasureStore(
            sites, needed=self.scheme.needed, is_shared=self.is_shared, clock=self._clock, left_out=names
        )

    @property
    def problems(self) -> tuple[ShareProblem, ...]:
        """What was found damaged, missing or away while reading."""
        return self._problems.all()

    @property
    def incomplete(self) -> tuple[ShareProblem, ...]:
        """What this process could not write at a site."""
        return self._incomplete.all()

    def note_incomplete(self, site: ErasureSite, key: str, what: str) -> None:
        """Something of an object is not done at a site yet."""
        self._incomplete.add(site.name, key, what)

    def settled(self, *, deep: bool) -> None:
        """Somebody repaired it: forget what could not be written, and with ``deep`` what was found."""
        self._incomplete.clear()
        if deep:
            self._problems.clear()
        self.shares.forget()

    def capabilities(self) -> Capabilities:
        each = [site.store.capabilities() for site in self.sites.all]
        return Capabilities(
            backend="erasure",
            create_only=all(one.create_only for one in each),
            compare_and_swap=False,
            pinned_reads=False,
            ranged_reads=all(one.ranged_reads for one in each),
            streamed_puts=True,
            create_only_streamed=True,
            metadata=False,
            server_side_copy=False,
            versions=False,
            notes=("For objects written once: a streamed put is made in memory, a streamed read is not pinned.",),
        )

    # -- looking -----------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        """What can be read: copies that one site has, shares that enough sites have."""
        answers = self._ask_all(lambda store: tuple(store.list(prefix, start_after=start_after)))
        found = [answer for answer in answers if answer.error is None]
        if len(found) < self.scheme.needed:
            raise unavailable(self.name, "list", prefix, answers, self.scheme)
        by_key: dict[str, dict[int, ObjectInfo]] = {}
        for answer in found:
            for info in answer.value:
                by_key.setdefault(info.key, {})[answer.site.number] = info
        for key in sorted(by_key, key=str.encode):
            one = self._as_one(key, by_key[key])
            if one is not None:
                yield one

    def head(self, key: str) -> ObjectInfo:
        answers = self._ask_all(lambda store: store.head(key))
        infos = {answer.site.number: answer.value for answer in answers if answer.error is None}
        found = self._as_one(key, infos) if infos else None
        if found is None:
            raise self._not_read("head", key, answers)
        return found

    def _as_one(self, key: str, infos: Mapping[int, ObjectInfo]) -> ObjectInfo | None:
        """What the sites' infos together say; ``None``: too few shares are there."""
        first = infos[min(infos)]
        if not self.is_shared(key):
            return replace(first, version=ObjectVersion(None))
        sizes = {number: info.size_bytes for number, info in infos.items()}
        told = self.scheme.size_of(sizes)
        if told is None:
            # Too few shares are as long as they should be. They may be good all the same but for their ends.
            try:
                size = self.shares.described(key).size_bytes if len(infos) >= self.scheme.needed else None
            except (ObjectStoreError, Damaged):
                size = None
            return None if size is None else replace(first, size_bytes=size, version=ObjectVersion(None))
        for number in sizes.keys() - told[1]:
            self._problems.add(self.sites.all[number].name, key, "its share is damaged")
        return replace(first, size_bytes=told[0], version=ObjectVersion(None))

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        _no_versions(if_match, self.name, key)
        if byte_range is not None and not 0 <= byte_range.start <= byte_range.end:
            raise ValueError(f"not a range of bytes: {byte_range}")
        if not self.is_shared(key):
            return self._get_copy(key, byte_range)
        if byte_range is None:
            return self.shares.whole(key)
        described = self.shares.described(key)
        end = min(byte_range.end, described.size_bytes)
        return self.shares.part(key, described, min(byte_range.start, end), end)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,  # noqa: ARG002 - the sites tell it
    ) -> ObjectReader:
        _no_versions(if_match, self.name, key)
        info = self.head(key)
        start, end = (0, info.size_bytes) if byte_range is None else (byte_range.start, byte_range.end)
        end = min(end, info.size_bytes)

        def chunks() -> Iterator[bytes]:
            step = max(chunk_bytes, _WINDOW_BYTES)
            for window in range(start, end, step):
                data = self.get(key, byte_range=ByteRange(window, min(end, window + step)))
                yield from (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))

        return ObjectReader(info, chunks())

    def _get_copy(self, key: str, byte_range: ByteRange | None) -> bytes:
        """What two sites say alike, or most of them; the first of them where they cannot agree."""

        def read(site: ErasureSite) -> Answer:
            return site.ask(lambda store: store.get(key, byte_range=byte_range))

        sites = self.sites.awake_first()
        answers = self.sites.parallel(sites[:2], read)
        if answers[0].error is not None or answers[1].error is not None or answers[0].value != answers[1].value:
            answers += self.sites.parallel(sites[2:], read)
        said: dict[bytes, list[Answer]] = {}
        for answer in sorted(answers, key=lambda one: one.site.number):
            if answer.error is None:
                said.setdefault(answer.value, []).append(answer)
        if not said:
            raise self._not_read("get", key, answers)
        data, most = max(said.items(), key=lambda one: len(one[1]))
        for answer in answers:
            if answer not in most and key not in HINTS:
                what = "missing" if answer.is_missing else "its copy is another one"
                place = ("", "does not answer") if answer.is_away else (key, what)
                self._problems.add(answer.site.name, *place)
        return data

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        if isinstance(mode, IfMatch) or metadata or attributes:
            raise NotSupported("versions, metadata and attributes are not kept here", where=f"{self.name}: put {key}")
        whole = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        parts = make_shares(self.scheme, whole) if self.is_shared(key) else [whole] * self.scheme.total
        self.shares.forget(key)
        taken = self._put_first(key, parts[0], mode, content_type)
        self._put_others(key, parts, mode, content_type)
        if taken is not None:
            raise taken
        return ObjectVersion(None)

    def _put_first(self, key: str, data: bytes, mode: PutMode, content_type: str | None) -> ObjectExists | None:
        """Write at the first site. Gives its refusal where the very same is there already: others may lack it."""
        first = self.sites.first
        try:
            first.do(lambda store: store.put(key, data, mode=mode, content_type=content_type))
            return None
        except ObjectExists as taken:
            if first.do(lambda store: store.get(key)) == data:
                return taken
            raise
        except StoreUnavailable as error:
            raise StoreUnavailable(
                "nothing is written while the first site is away",
                where=f"{self.name}: put {key}",
                expected=f"{first.name} to decide",
                found=str(error),
                fix="Wait for it; reading goes on. If it is lost for good: docs/formats/vault-shares.md",
                outcome_unknown=error.outcome_unknown,
            ) from None

    def _put_others(self, key: str, parts: Sequence[bytes], mode: PutMode, content_type: str | None) -> None:
        def write(site: ErasureSite) -> Answer:
            data = parts[site.number]
            if isinstance(mode, Create):
                return site.ask(lambda store: create_or_read(store, key, data, content_type=content_type) == data)
            return site.ask(lambda store: store.put(key, data, mode=mode, content_type=content_type) is not None)

        scheme = self.scheme
        enough = scheme.needed if self.is_shared(key) else scheme.total - scheme.needed + 1
        answers = self.sites.ask(self.sites.others, write, enough=lambda told: _written(told) >= enough)
        asked = {answer.site for answer in answers if answer.error is None}
        for site in self.sites.others:
            if site not in asked:
                self.note_incomplete(site, key, "not written there")
        for answer in answers:
            if answer.value is False and self.is_shared(key):
                self._problems.add(answer.site.name, key, "another share lies where a new one belongs")
            elif answer.value is False:
                raise Damaged(
                    "the sites hold different objects of one key",
                    where=f"{answer.site.name}: {key}",
                    expected=f"what {self.sites.first.name} holds",
                    found="other bytes",
                    fix="One of the two was rolled back: compare them with the witnesses",
                )
        if _written(answers) < enough and key not in HINTS:
            raise unavailable(self.name, "put", key, answers, scheme, outcome_unknown=True)

    def copy(self, source: str, target: str) -> None:
        self.put(target, self.get(source))

    def delete(self, key: str) -> None:
        """Remove it everywhere, at the first site last: so what is gone there is gone at all.

        Raises what a site raises; then it may be gone at some of the others, and may be removed again.
        """
        self.shares.forget(key)
        for answer in self.sites.parallel(self.sites.others, lambda site: site.ask(lambda store: store.delete(key))):
            if answer.error is not None:
                raise answer.error
        self.sites.first.do(lambda store: store.delete(key))

    # -- sites -------------------------------------------------------------------------------------------------------

    def _ask_all(self, call: Callable[[ObjectStore], object]) -> tuple[Answer, ...]:
        def enough(answers: Sequence[Answer]) -> bool:
            return sum(not answer.is_away for answer in answers) >= self.scheme.needed

        answers = self.sites.ask(self.sites.all, lambda site: site.ask(call), enough=enough)
        for answer in answers:
            if answer.is_away:
                self._problems.add(answer.site.name, "", "does not answer")
        return answers

    def _not_read(self, verb: str, key: str, answers: Sequence[Answer]) -> ObjectNotFound | StoreUnavailable | Damaged:
        """Why nothing was read: so many sites have none that nobody could read it, or too few say anything."""
        missing = sum(answer.is_missing for answer in answers)
        # A copy lies at more sites than `needed - 1` may lack.
        lost = self.scheme.total - self.scheme.needed if self.is_shared(key) else self.scheme.needed - 1
        if missing > lost:
            return ObjectNotFound("no object has this key", where=f"{self.name}: {verb} {key}")
        if any(answer.is_away for answer in answers) or len(answers) < self.scheme.total:
            return unavailable(self.name, verb, key, answers, self.scheme)
        return Damaged(
            "too few shares are good",
            where=f"{self.name}: {key}",
            expected=str(self.scheme.needed),
            fix="Put the object back from a mirror",
        )


def _written(answers: Sequence[Answer]) -> int:
    """At how many sites it lies, the first counted."""
    return 1 + sum(answer.value is True for answer in answers)


def _no_versions(if_match: ObjectVersion | None, name: str, key: str) -> None:
    if if_match is not None and if_match != ObjectVersion(None):
        raise NotSupported("versions are not compared here", where=f"{name}: {key}")
