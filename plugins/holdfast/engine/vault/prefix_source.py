"""What lies below a prefix of a bucket as the source of a backup, e.g. a training run with its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from holdfast.engine.objectstore.errors import ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.vault.errors import SourceChanged
from holdfast.engine.vault.sources import SourceObject


@dataclass
class PrefixSource:
    """Objects as they lie below a prefix, each read pinned to the version that was listed.

    Objects that others name (`naming`) are listed first, so that what they name is listed after it was written: a
    checkpoint's manifest is never in a backup that lacks its blobs. One of them that came later is left for the next
    backup; what is removed while it is read ends this one.

    Args:
        name: of the series.
        site: where it is read.
        store: of the site.
        prefix: with its final slash.
        taken_at: when it is listed.
        naming: below the prefix, where the objects lie that are written last.
    """

    name: str
    site: str
    store: ObjectStore
    prefix: str
    taken_at: datetime
    naming: tuple[str, ...] = ()
    kind: str = "prefix"
    is_remote: bool = True
    _versions: dict[str, ObjectVersion] = field(default_factory=dict, repr=False)

    @property
    def origin(self) -> Mapping[str, Any]:
        return {"site": self.site, "prefix": self.prefix}

    def objects(self) -> Iterator[SourceObject]:
        first = {info.key for part in self.naming for info in self.store.list(self.prefix + part)}
        found = [info for info in self.store.list(self.prefix) if self._belongs(info, first)]
        for info in sorted(found, key=lambda one: one.key):
            path = info.key.removeprefix(self.prefix)
            self._versions[path] = info.version
            yield SourceObject(path, info.size_bytes, info.modified_at, _state(info), None, None)

    def _belongs(self, info: ObjectInfo, first: set[str]) -> bool:
        path = info.key.removeprefix(self.prefix)
        return info.key in first or not path.startswith(self.naming or ("\0",))

    def read(self, item: SourceObject) -> Iterator[bytes]:
        """Raises SourceChanged: it was overwritten or removed since it was listed."""
        key, version = self.prefix + item.path, self._versions[item.path]
        pinned = self.store.capabilities().pinned_reads is True
        try:
            yield from self.store.open(key, if_match=version if pinned else None, size_bytes=item.size_bytes)
        except (ObjectNotFound, PreconditionFailed) as error:
            raise SourceChanged(
                "an object changed while it was backed up",
                where=f"{self.store.name}: {key}",
                expected=item.state,
                found=error.what,
                fix="Run it again",
            ) from None

    def finish(self) -> None:
        return None


def _state(info: ObjectInfo) -> str | None:
    """What a listing calls this state of an object; ``None`` where it does not say enough."""
    version = info.version.version or info.version.e_tag
    return None if version is None else f"{info.size_bytes}:{version}"
