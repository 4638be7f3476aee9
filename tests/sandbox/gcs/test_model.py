"""Random histories on the storage against a model of a few lines; restarts in between.

After every step each generation reads as the model has it, and the content files on disk are exactly those
some generation consists of: sharing content between copies and compositions neither loses nor leaks any.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.sandbox.gcs.blobs import INLINE_BYTES
from holdfast.sandbox.gcs.checksums import decode_crc32c
from holdfast.sandbox.gcs.errors import GcsError
from holdfast.sandbox.gcs.listing import Query, decode_token, list_objects
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.storage import Body, Source, Storage

NAMES = st.sampled_from(["a", "a/b", "a/c", "ü"])
CONTENTS = st.sampled_from([b"", b"1", b"x" * INLINE_BYTES, b"y" * (INLINE_BYTES + 1), b"z" * 70_000, b"u" * 40_000])


@dataclass
class Version:
    generation: int
    data: bytes
    live: bool = True


class Histories(RuleBasedStateMachine):
    @initialize(versioned=st.booleans())
    def start(self, versioned: bool) -> None:
        self.versioned = versioned
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.storage = Storage(self.folder, sync=False)
        self.model: dict[str, list[Version]] = {}
        fields = {"location": "US", "versioning": {"enabled": versioned}}
        self.loop.run_until_complete(self.storage.create_bucket("bucket", "p", fields))

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    def live(self, name: str) -> Version | None:
        return next((version for version in self.model.get(name, []) if version.live), None)

    def run(self, step: Any) -> Any:
        """The step's result, or the status it was refused with."""
        try:
            return self.loop.run_until_complete(step)
        except GcsError as error:
            return error.status

    def replaced(self, name: str, new: Version | None) -> None:
        versions = self.model.setdefault(name, [])
        if not self.versioned:
            versions[:] = [version for version in versions if not version.live]
        for version in versions:
            version.live = False
        if new is not None:
            versions.append(new)

    async def put(self, name: str, data: bytes, preconditions: Preconditions) -> Any:
        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 10_000):
                yield data[start : start + 10_000]

        content = await self.storage.blobs.receive(stream())
        try:
            return await self.storage.put("bucket", name, Body.of(content), {}, preconditions)
        except GcsError:
            self.storage.blobs.discard(content)
            raise

    def condition(self, name: str, kind: str) -> tuple[Preconditions, bool]:
        """A precondition on a name, and whether it holds."""
        live = self.live(name)
        if kind == "create":
            return Preconditions(generation_match=0), live is None
        if kind == "current":
            return Preconditions(generation_match=live.generation if live else 7), live is not None
        if kind == "stale":
            return Preconditions(generation_match=1), False
        return Preconditions(), True

    kinds = st.sampled_from(["none", "create", "current", "stale"])

    @rule(name=NAMES, data=CONTENTS, kind=kinds)
    def write(self, name: str, data: bytes, kind: str) -> None:
        preconditions, holds = self.condition(name, kind)
        result = self.run(self.put(name, data, preconditions))
        if holds:
            self.replaced(name, Version(result.generation, data))
        else:
            assert result == 412

    @rule(source=NAMES, to=NAMES, kind=kinds)
    def copy(self, source: str, to: str, kind: str) -> None:
        preconditions, holds = self.condition(to, kind)
        found = self.live(source)
        result = self.run(self.storage.copy(Source("bucket", source), "bucket", to, None, preconditions))
        if found is None:
            assert result == 404
        elif holds:
            self.replaced(to, Version(result.generation, found.data))
        else:
            assert result == 412

    @precondition(lambda self: sum(len(v.data) for vs in self.model.values() for v in vs) < 5_000_000)
    @rule(sources=st.lists(NAMES, min_size=1, max_size=3), to=NAMES)
    def compose(self, sources: list[str], to: str) -> None:
        found = [self.live(name) for name in sources]
        items = [Source("bucket", name) for name in sources]
        result = self.run(self.storage.compose("bucket", to, items, {}, Preconditions()))
        if None in found:
            assert result == 404
        else:
            data = b"".join(version.data for version in found if version is not None)
            assert decode_crc32c(result.checksums.crc32c) == google_crc32c.value(data)
            self.replaced(to, Version(result.generation, data))

    @rule(name=NAMES, kind=kinds)
    def delete(self, name: str, kind: str) -> None:
        preconditions, holds = self.condition(name, kind)
        found = self.live(name)
        result = self.run(self.storage.delete("bucket", name, None, preconditions))
        if found is None:
            assert result in (404, 412)
        elif holds:
            assert result is None
            self.replaced(name, None)
        else:
            assert result == 412

    @rule(name=NAMES)
    def delete_oldest_generation(self, name: str) -> None:
        versions = self.model.get(name, [])
        if versions:
            assert self.run(self.storage.delete("bucket", name, versions[0].generation, Preconditions())) is None
            del versions[0]

    @rule()
    def restart(self) -> None:
        self.storage.close()
        self.storage = Storage(self.folder, sync=False)

    @rule(prefix=st.sampled_from(["", "a", "a/", "b"]), delimiter=st.sampled_from(["", "/"]), limit=st.integers(1, 3))
    def list(self, prefix: str, delimiter: str, limit: int) -> None:
        found: list[str] = []
        query = Query(prefix=prefix, delimiter=delimiter, limit=limit)
        while True:
            page = list_objects(self.storage.database.reader(), "bucket", query)
            assert len(page.objects) + len(page.prefixes) <= limit
            found += [*(record.name for record in page.objects), *page.prefixes]
            if page.next_token is None:
                break
            after, generation = decode_token(page.next_token)
            query = Query(prefix=prefix, delimiter=delimiter, limit=limit, after=after, after_generation=generation)
        names = [name for name in self.model if name.startswith(prefix) and self.live(name)]
        folded = {
            name[: name.index(delimiter, len(prefix)) + 1] if delimiter and delimiter in name[len(prefix) :] else name
            for name in names
        }
        assert sorted(found) == sorted(folded)
        assert len(found) == len(folded)

    @invariant()
    def everything_reads_as_it_was_written(self) -> None:
        if not hasattr(self, "storage"):
            return
        for name, versions in self.model.items():
            for version in versions:
                record = self.storage.find("bucket", name, version.generation)
                assert record.live == version.live
                assert self.loop.run_until_complete(self.content(record)) == version.data

    @invariant()
    def no_content_file_is_lost_or_left(self) -> None:
        if not hasattr(self, "storage"):
            return
        rows = self.storage.database.reader().execute(
            "SELECT DISTINCT blob.id FROM segment JOIN blob ON blob.id = segment.blob WHERE blob.data IS NULL"
        )
        assert {path.name for path in (self.folder / "blobs").glob("*/*")} == {row["id"] for row in rows}

    async def content(self, record: Any) -> bytes:
        segments = self.storage.segments(record)
        return b"".join([data async for data in self.storage.blobs.read(segments, 0, record.size_bytes)])


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    # A history is short enough to read; making it shorter costs minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
