"""Google Cloud Storage, over its XML API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._client import client_arguments
from holdfast.engine.objectstore._obstore import ObstoreStore, Traits
from holdfast.engine.objectstore.access import StoreAccess, fixed
from holdfast.engine.objectstore.credentials import watched
from holdfast.engine.objectstore.encryption import refuse_key
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore.parts.interface import PartStore

_ANY = "anonymous"
#: Without it the service inflates objects stored with ``Content-Encoding: gzip`` on the way out ("decompressive
#: transcoding"), and neither size nor checksum of what comes is that of what is stored.
_STORED_BYTES = {"Accept-Encoding": "gzip"}

TRAITS = Traits(
    cloud=Cloud.GCP,
    capabilities=Capabilities(
        backend="gcs",
        create_only=True,
        compare_and_swap=True,
        pinned_reads=True,
        ranged_reads=True,
        streamed_puts=True,
        create_only_streamed=False,
        metadata=True,
        server_side_copy=True,
        versions=None,
        notes=("A conditional put names the generation; a version from a listing has none and costs one HEAD.",),
    ),
    version_in_condition=True,
)


def gcs_store(name: str, site: Site, access: StoreAccess, timeouts: Timeouts) -> ObstoreStore:
    """The store of a site on Google Cloud. Raises ConfigError for a `kms_key`: see `refuse_key`."""
    refuse_key(name, site, "the bucket's default Cloud KMS key")
    if access.anonymous and access.endpoint:
        # obstore's `skip_signature` still asks for a token before it writes. An emulator takes any.
        access = replace(access, anonymous=False, credentials=fixed(token=_ANY))
    credentials = watched(access)

    def build(limits: RequestLimits) -> Client:
        from obstore.store import GCSStore

        config: Any = dict(access.options)
        if access.endpoint:
            config["base_url"] = access.endpoint
        if access.anonymous:
            config["skip_signature"] = "true"
        return GCSStore(site.bucket, config=config, **client_arguments(access, credentials, limits, _STORED_BYTES))

    def parts(store: ObstoreStore) -> PartStore:
        from holdfast.engine.objectstore.parts.gcs import GcsParts

        return GcsParts(store, site, access, timeouts)

    return ObstoreStore(
        name=f"{name} (gs://{'/'.join(filter(None, (site.bucket, site.prefix)))})",
        prefix=site.prefix,
        traits=TRAITS,
        build=build,
        timeouts=timeouts,
        credentials=credentials,
        parts=parts,
    )
