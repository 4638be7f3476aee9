"""A cost report as a record at the sites: the audit's source of Holdfast's own events reads it there.

``costs/<period>/<made at>-<SHA-256 of its bytes>.json``, create-only: a report that was made later lies beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast import strict_json
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.once import create_or_read

KEPT = "kept"


def record_of(document: Mapping[str, Any]) -> tuple[str, bytes]:
    """The key and the bytes of a report, as `report_document` makes it."""
    data = canonical(json.loads(strict_json.dumps(document)))
    made_at = datetime.fromisoformat(document["made_at"]).astimezone(UTC)
    name = f"{made_at:%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(data).hexdigest()}.json"
    return f"costs/{document['period']}/{name}", data


def keep_report(stores: Mapping[str, ObjectStore], document: Mapping[str, Any]) -> dict[str, str]:
    """Keep a report at every site that takes it.

    Args:
        stores: by site.

    Returns:
        By site `KEPT`, or why not.
    """
    key, data = record_of(document)
    kept = {}
    for site, store in stores.items():
        try:
            create_or_read(store, key, data, content_type="application/json")
            kept[site] = KEPT
        except ObjectStoreError as error:
            kept[site] = str(error)
    return kept
