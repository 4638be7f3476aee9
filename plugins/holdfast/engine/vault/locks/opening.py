"""Open the locks of a site's store: the only place that knows which cloud's leaf to take."""

from __future__ import annotations

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.vault.locks.interface import ObjectLocks
from holdfast.engine.vault.locks.none import NoLocks


def open_locks(site_name: str, site: Site, connection: Connection, store: ObjectStore) -> ObjectLocks:
    """The locks of a site's store.

    Args:
        store: the site's, which `NoLocks` reads where the cloud is a local folder.

    Raises:
        ConfigError: the connection does not fit.
    """
    if site.cloud is Cloud.AWS:
        from holdfast.engine.vault.locks.s3 import S3Locks

        return S3Locks(site_name, site, connection)
    if site.cloud is Cloud.GCP:
        from holdfast.engine.vault.locks.gcs import GcsLocks

        return GcsLocks(site_name, site, connection)
    if site.cloud is Cloud.AZURE:
        from holdfast.engine.vault.locks.azure import AzureLocks

        return AzureLocks(site_name, site, connection)
    return NoLocks(store, "a local folder keeps no locks")
