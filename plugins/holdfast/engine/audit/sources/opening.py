"""The store of a source whose events lie in a bucket of a cloud."""

from __future__ import annotations

from holdfast.engine.objectstore import DEFAULT_RETRY, RetryingStore, open_store
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.runtime import Runtime


def bucket_of(runtime: Runtime, site: str, bucket: str, prefix: str = "") -> ObjectStore:
    """A bucket beside a site's own, reached with the site's connection; it is only ever read.

    Args:
        bucket: its name; of a local site an absolute folder.
        prefix: keys are relative to it.

    Raises:
        UnknownName: there is no such site.
        ConfigError: its connection is not complete.
    """
    settings = runtime.topology.site(site).model_copy(update={"bucket": bucket, "prefix": prefix.strip("/")})
    return RetryingStore(open_store(site, settings, runtime.access(site), retry=None), DEFAULT_RETRY)
