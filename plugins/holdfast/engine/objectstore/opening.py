"""Open a site's store: the only place that knows which cloud's leaf to take."""

from __future__ import annotations

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.objectstore.encryption import refuse_key
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.retry import DEFAULT_RETRY, RetryingStore, RetryPolicy
from holdfast.engine.objectstore.timeouts import Timeouts


def open_store(
    site_name: str,
    site: Site,
    access: StoreAccess | Connection,
    *,
    timeouts: Timeouts | None = None,
    retry: RetryPolicy | None = DEFAULT_RETRY,
) -> ObjectStore:
    """The store of a site. Nothing is connected before its first call.

    Args:
        site_name: the site's name in the topology, for messages.
        site: cloud, region, bucket and prefix.
        access: how it is reached, or the connection that says so.
        timeouts: limits of one request.
        retry: how long to keep trying; ``None``: one attempt, without the decorator.

    Raises:
        ConfigError: the connection does not fit the site, or the site names a key that cannot be asked for.
    """
    if isinstance(access, Connection):
        access = access_from_connection(site, access)
    store = _open(site_name, site, access, timeouts or Timeouts())
    return store if retry is None else RetryingStore(store, retry)


def _open(site_name: str, site: Site, access: StoreAccess, timeouts: Timeouts) -> ObjectStore:
    if site.cloud is Cloud.AWS:
        from holdfast.engine.objectstore.s3 import s3_store

        return s3_store(site_name, site, access, timeouts)
    if site.cloud is Cloud.GCP:
        from holdfast.engine.objectstore.gcs import gcs_store

        return gcs_store(site_name, site, access, timeouts)
    if site.cloud is Cloud.AZURE:
        from holdfast.engine.objectstore.azure import azure_store

        return azure_store(site_name, site, access, timeouts)
    from holdfast.engine.objectstore.local import local_store

    refuse_key(site_name, site, "an encrypted file system")
    return local_store(site_name, site.bucket, prefix=site.prefix, timeouts=timeouts)
