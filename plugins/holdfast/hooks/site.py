"""From a site's Airflow connection to what opens its object store, through the providers' own hooks."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.opening import open_store
from holdfast.engine.objectstore.retry import DEFAULT_RETRY, RetryPolicy
from holdfast.engine.objectstore.timeouts import Timeouts


class SiteHook(BaseHook):
    """Opens the object store of one site with whatever login its connection has.

    The provider's hook of the cloud logs in: keys, assumed roles, web identity, service accounts, impersonation, SAS,
    service principals, managed identity. What it gives is renewed when it is about to expire.

    :param site_name: the site's name in the topology, for messages.
    :param site: the site: its cloud, bucket and connection id.
    """

    def __init__(self, site_name: str, site: Site, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site_name = site_name
        self.site = site

    def get_conn(self) -> ObjectStore:
        """The site's store, with the default timeouts and retries."""
        return self.store()

    def store(self, *, timeouts: Timeouts | None = None, retry: RetryPolicy | None = DEFAULT_RETRY) -> ObjectStore:
        """The site's store.

        :param timeouts: limits of one request.
        :param retry: how long to keep trying; ``None``: one attempt.
        :raises ConfigError: the connection is missing or does not fit the site.
        """
        return open_store(self.site_name, self.site, self.store_access(), timeouts=timeouts, retry=retry)

    def store_access(self) -> StoreAccess:
        """How the site's store is reached. Logs in at the store's first request, not here.

        :raises ConfigError: the connection is missing or does not fit the site.
        """
        if self.site.cloud is Cloud.LOCAL:
            return StoreAccess()
        if self.site.cloud is Cloud.AWS:
            from holdfast.hooks.aws import aws_access as access
        elif self.site.cloud is Cloud.GCP:
            from holdfast.hooks.gcp import gcp_access as access
        else:
            from holdfast.hooks.azure import azure_access as access
        return access(self.site)
