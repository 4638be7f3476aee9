"""A site's bucket as pgBackRest's repository: its endpoint, and keys that may lie in a file for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.engine.config import Cloud, Site
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.vault.airflow_state.pitr import Repository
from holdfast.errors import ConfigError


@dataclass(frozen=True)
class SiteRepository:
    """A repository, and what has to lie beside the configuration for it.

    Args:
        key_file: the content of the service account's key file that the repository names; ``None``: it names none.
    """

    repository: Repository
    key_file: str | None = None


def repository_at(name: str, site: Site, access: StoreAccess, *, prefix: str, key_file: Path) -> SiteRepository:
    """The repository in a folder of a site's bucket.

    Args:
        name: of the site, for messages.
        access: whose keys pgBackRest gets.
        prefix: the folder.
        key_file: where a service account's key would lie.

    Raises:
        ConfigError: keys that expire, anonymous access, or an endpoint without TLS.
    """
    path = "/" + "/".join(filter(None, (site.prefix, prefix)))
    if site.cloud is Cloud.LOCAL:
        return SiteRepository(Repository.posix(Path(site.bucket) / path.lstrip("/")))
    if access.anonymous:
        raise _no_keys(name, "anonymous access")
    makers: Mapping[Cloud, Callable[[], SiteRepository]] = {
        Cloud.AWS: lambda: _s3(name, site, access, path),
        Cloud.GCP: lambda: _gcs(name, site, access, path, key_file),
        Cloud.AZURE: lambda: _azure(name, site, access, path),
    }
    return makers[site.cloud]()


def _s3(name: str, site: Site, access: StoreAccess, path: str) -> SiteRepository:
    keys = _lasting(name, access)
    if keys.get("token"):
        raise _no_keys(name, "a session's token")
    host, further = _endpoint(name, access, "s3-uri-style")
    region = access.options.get("region") or site.region
    made = Repository.s3(
        site.bucket,
        region,
        path=path,
        key=keys.get("access_key_id") or "",
        secret=keys.get("secret_access_key") or "",
        endpoint=host,
    )
    return SiteRepository(made.having(**further))


def _gcs(name: str, site: Site, access: StoreAccess, path: str, key_file: Path) -> SiteRepository:
    host, further = _endpoint(name, access, None)
    if host:
        further["gcs-endpoint"] = host
    if access.credentials is not None:
        raise _no_keys(name, "a token")
    text, given = access.options.get("service_account_key"), access.options.get("service_account")
    file = key_file if text else Path(given) if given else None
    return SiteRepository(Repository.gcs(site.bucket, path=path, key_file=file).having(**further), text)


def _azure(name: str, site: Site, access: StoreAccess, path: str) -> SiteRepository:
    keys = _lasting(name, access)
    key, sas = keys.get("access_key"), keys.get("sas_token")
    account = access.options.get("account_name")
    if not account or not (key or sas):
        raise _no_keys(name, "a login without an account's key or shared access signature")
    own = access.endpoint and urlsplit(access.endpoint).hostname
    further: dict[str, str] = {}
    if own and not own.startswith(f"{account}."):
        host, further = _endpoint(name, access, "azure-uri-style")
        further["azure-endpoint"] = host
    elif own:
        further["azure-endpoint"] = own.removeprefix(f"{account}.")
    made = Repository.azure(account, site.bucket, str(key or sas), path=path, is_sas=not key)
    return SiteRepository(made.having(**further))


def _lasting(name: str, access: StoreAccess) -> Mapping[str, str | None]:
    if access.credentials is None:
        return {}
    found = access.credentials()
    if found.expires_at is not None:
        raise _no_keys(name, "keys that expire")
    return found.values


def _endpoint(name: str, access: StoreAccess, style: str | None) -> tuple[str, dict[str, str]]:
    """The host of a service that is not the cloud's own, and the options it needs; "" for the cloud's own."""
    if not access.endpoint:
        return "", {}
    url = urlsplit(access.endpoint)
    if url.scheme != "https" or not url.hostname:
        raise ConfigError(
            "pgBackRest speaks TLS only",
            where=f"site {name}",
            expected="an https:// endpoint",
            found=f"{url.scheme}://{url.hostname or ''}",
            fix="Name another site as airflow.recovery.site",
        )
    further = {} if url.port is None else {"storage-port": str(url.port)}
    return url.hostname, {**further, **({style: "path"} if style else {})}


def _no_keys(name: str, found: str) -> ConfigError:
    return ConfigError(
        "these credentials cannot stand in pgBackRest's configuration",
        where=f"site {name}",
        expected="keys that do not expire, or none at all where the machine has an identity of its own",
        found=found,
        fix="Name a connection with the right to that folder only: airflow.recovery.connection",
    )
