"""What a backend may offer beside obstore: small objects whole, by a way that costs less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.ahead import Pending
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectVersion, PutMode


class WholeObjects(Protocol):
    """GET and PUT of whole objects. ``path`` is the key in the bucket, checked; ``call`` has the store's own."""

    def begin_get(
        self, call: Call, path: str, if_match: ObjectVersion | None, most_bytes: int
    ) -> Pending[tuple[ObjectInfo, bytes, Attributes] | None]:
        """An object, of exactly this version where one is named; ``None``: it is longer than ``most_bytes``."""

    def begin_put(
        self, call: Call, path: str, data: bytes, mode: PutMode, said: Mapping[str, Any]
    ) -> Pending[ObjectVersion]:
        """Write an object; ``said`` is what `put_options` gives."""
