"""The key a site's store encrypts new objects with (``Site.kms_key``).

Only S3 takes it with every write through obstore. Google Cloud wants a header on some requests and not on others, and
Azure one that is part of the signature; obstore sends neither. A key that would be ignored is refused instead: both
clouds take the key as a setting of the bucket, which holds for every writer.
"""

from __future__ import annotations

from holdfast.engine.config import Site
from holdfast.errors import ConfigError


def encryption_headers(site: Site) -> dict[str, str]:
    """What a request that creates an object on S3 (PutObject, CreateMultipartUpload, CopyObject) must carry."""
    if site.kms_key is None:
        return {}
    return {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": site.kms_key,
    }


def refuse_key(name: str, site: Site, instead: str) -> None:
    """Raises ConfigError when the site names a key.

    Args:
        name: of the site.
        site: its settings.
        instead: what to set at the provider.
    """
    if site.kms_key is None:
        return
    raise ConfigError(
        "this site's key cannot be asked for with each write",
        where=f"{name}: kms_key",
        expected=f"no `kms_key` at a site on {site.cloud.value}",
        found=site.kms_key,
        fix=f"Set {instead} to this key and remove `kms_key` from the topology",
    )
