"""Azure Blob Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._client import client_arguments
from holdfast.engine.objectstore._obstore import ObstoreStore, Traits
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.credentials import watched
from holdfast.engine.objectstore.encryption import refuse_key
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.pages import Split
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore.parts.interface import PartStore

TRAITS = Traits(
    cloud=Cloud.AZURE,
    capabilities=Capabilities(
        backend="azure",
        create_only=True,
        compare_and_swap=True,
        pinned_reads=True,
        ranged_reads=True,
        streamed_puts=True,
        create_only_streamed=False,
        metadata=True,
        server_side_copy=True,
        versions=None,
    ),
    listing_split=Split.FOLDERS,  # a listing from a key on is the whole one, thrown away up to there
)


def azure_store(name: str, site: Site, access: StoreAccess, timeouts: Timeouts) -> ObstoreStore:
    """The store of a site on Azure. Raises ConfigError for a `kms_key`: see `refuse_key`."""
    refuse_key(name, site, "the container's default encryption scope, and deny its override")
    credentials = watched(access)

    def build(limits: RequestLimits) -> Client:
        from obstore.store import AzureStore

        config: Any = dict(access.options)
        if access.endpoint:
            config["endpoint"] = access.endpoint
        if access.anonymous:
            config["skip_signature"] = "true"
        return AzureStore(site.bucket, config=config, **client_arguments(access, credentials, limits))

    def parts(store: ObstoreStore) -> PartStore:
        from holdfast.engine.objectstore.parts.azure import AzureParts

        return AzureParts(store, site, access, timeouts)

    return ObstoreStore(
        name=f"{name} (az://{'/'.join(filter(None, (site.bucket, site.prefix)))})",
        prefix=site.prefix,
        traits=TRAITS,
        build=build,
        timeouts=timeouts,
        credentials=credentials,
        parts=parts,
    )
