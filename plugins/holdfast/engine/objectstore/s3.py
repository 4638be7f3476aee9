"""Amazon S3 and what speaks its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore._client import client_arguments
from holdfast.engine.objectstore._obstore import ObstoreStore, Traits
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.credentials import watched
from holdfast.engine.objectstore.encryption import encryption_headers
from holdfast.engine.objectstore.interface import Capabilities
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

    from holdfast.engine.objectstore._whole import WholeObjects
    from holdfast.engine.objectstore.parts.interface import PartStore

#: The options of a connection that small objects over our own connections heed.
_OPTIONS = frozenset(
    {"region", "endpoint", "endpoint_url", "virtual_hosted_style_request", "unsigned_payload", "checksum_algorithm"}
)

TRAITS = Traits(
    cloud=Cloud.AWS,
    capabilities=Capabilities(
        backend="s3",
        create_only=True,
        compare_and_swap=True,
        pinned_reads=True,
        ranged_reads=True,
        streamed_puts=True,
        create_only_streamed=False,
        metadata=True,
        server_side_copy=True,
        versions=None,
        notes=("An ETag of a one-part object is its MD5: equal bytes written again have the same version.",),
    ),
)


def s3_store(name: str, site: Site, access: StoreAccess, timeouts: Timeouts) -> ObstoreStore:
    """The store of a site on AWS."""
    credentials = watched(access)

    def build(limits: RequestLimits) -> Client:
        from obstore.store import S3Store

        config: Any = {"region": site.region, **access.options, "disable_bulk_delete": "true"}
        if access.endpoint:
            config["endpoint"] = access.endpoint
        if access.anonymous:
            config["skip_signature"] = "true"
        if site.kms_key is not None:
            config.update({"server_side_encryption": "aws:kms", "sse_kms_key_id": site.kms_key})
        return S3Store(site.bucket, config=config, **client_arguments(access, credentials, limits))

    def parts(store: ObstoreStore) -> PartStore:
        from holdfast.engine.objectstore.parts.s3 import S3Parts

        return S3Parts(store, site, access, timeouts)

    def whole(store: ObstoreStore) -> WholeObjects | None:
        if not _OPTIONS.issuperset(name.removeprefix("aws_") for name in access.options):
            return None  # something only obstore knows how to do
        from holdfast.engine.objectstore.parts.s3 import S3Parts
        from holdfast.engine.objectstore.parts.s3_whole import S3Whole

        side = store.parts()
        if not isinstance(side, S3Parts):
            return None
        unsigned = access.options.get("unsigned_payload") == "true"
        checked = unsigned or access.options.get("checksum_algorithm") == "CRC64NVME"
        return S3Whole(side, encryption_headers(site), unsigned=unsigned, checked=checked)

    return ObstoreStore(
        name=f"{name} (s3://{'/'.join(filter(None, (site.bucket, site.prefix)))})",
        prefix=site.prefix,
        traits=TRAITS,
        build=build,
        timeouts=timeouts,
        credentials=credentials,
        parts=parts,
        whole=whole,
    )
