"""From a feed's URI in the topology to the feed: the only place that knows which cloud's leaf to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from holdfast.engine.config import Cloud, Connection, Site
from holdfast.engine.objectstore.access import StoreAccess
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.opening import open_store
from holdfast.engine.replication.feeds.interface import ChangeFeed, Scope
from holdfast.engine.snapshot.keys import data_folder
from holdfast.errors import ConfigError

#: Opens a bucket or container of the source's cloud by its name.
OpenBucket = Callable[[str], ObjectStore]


@dataclass(frozen=True)
class _Asked:
    """A feed as it is asked for."""

    url: SplitResult
    options: Mapping[str, float]
    connection: Connection
    site: Site
    scope: Scope
    access: StoreAccess | None
    open_bucket: OpenBucket
    client: Any

    @property
    def place(self) -> str:
        return (self.url.netloc + self.url.path).strip("/")


@dataclass(frozen=True)
class _Scheme:
    cloud: Cloud
    form: str
    open: Callable[[_Asked], ChangeFeed]
    options: tuple[str, ...] = ()


def open_feed(
    uri: str,
    connection: Connection,
    *,
    site_name: str,
    site: Site,
    folder: str,
    access: StoreAccess | None = None,
    open_bucket: OpenBucket | None = None,
    client: Any = None,
) -> ChangeFeed:
    """The change feed a URI names. Nothing is asked yet.

    Args:
        uri: see docs/reference/sync-feeds.md.
        connection: of the source's site; a feed's service is reached with the same credentials.
        site_name: the source's name in the topology, for messages.
        site: the source.
        folder: the dataset's folder under ``data/``; events of other keys are dropped.
        access: who logs in, when that is not by the connection's own fields (under Airflow).
        open_bucket: opens the bucket reports or logs lie in, instead of the site's own way.
        client: the service's SDK client to use instead of one made from the connection (SQS, Pub/Sub).

    Raises:
        ConfigError: the URI is none of the known forms, or of another cloud than the site.
    """
    url = urlsplit(uri)
    scheme = _SCHEMES.get(url.scheme)
    if scheme is None:
        raise ConfigError(
            "the feed's kind is not known",
            where=f"feed {uri!r}",
            expected=", ".join(one.form for one in _SCHEMES.values()),
        )
    if site.cloud not in (scheme.cloud, Cloud.LOCAL):
        raise ConfigError(
            "the feed is of another cloud than the source",
            where=f"feed {uri!r}",
            expected=f"a feed of {site.cloud}",
            found=scheme.form,
        )

    def open_own(bucket: str) -> ObjectStore:
        return open_store(site_name, site.model_copy(update={"bucket": bucket, "prefix": ""}), access or connection)

    asked = _Asked(
        url=url,
        options=_options(uri, url.query, scheme),
        connection=connection,
        site=site,
        scope=Scope(site.bucket, site.prefix.strip("/"), f"{data_folder(folder)}/"),
        access=access,
        open_bucket=open_bucket or open_own,
        client=client,
    )
    if not asked.place or not url.netloc:
        raise _malformed(asked, scheme.form)
    return scheme.open(asked)


def _options(uri: str, query: str, scheme: _Scheme) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        try:
            if name not in scheme.options:
                raise ValueError
            found[name] = float(value)
        except ValueError:
            raise ConfigError(
                "the feed's option is not known or no number",
                where=f"feed {uri!r}",
                expected=", ".join(scheme.options) or "no options",
                found=f"{name}={value}",
            ) from None
    return found


def _malformed(asked: _Asked, form: str) -> ConfigError:
    return ConfigError("the feed's URI is incomplete", where=f"feed {asked.url.geturl()!r}", expected=form)


def _sqs(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.s3_events import SqsFeed

    owner, _, queue = asked.place.rpartition("/")
    return SqsFeed(
        queue,
        asked.connection,
        asked.scope,
        region=asked.site.region,
        owner=owner or None,
        access=asked.access,
        client=asked.client,
        **asked.options,
    )


def _s3_inventory(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.s3_inventory import S3InventoryFeed

    bucket = asked.url.netloc
    return S3InventoryFeed(asked.open_bucket(bucket), bucket, asked.url.path, asked.scope)


def _pubsub(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.gcs_notifications import PubSubFeed

    parts = asked.place.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != "subscriptions":
        raise _malformed(asked, _SCHEMES["pubsub"].form)
    return PubSubFeed(
        asked.place, asked.connection, asked.scope, access=asked.access, client=asked.client, **asked.options
    )


def _gcs_insights(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.gcs_insights import GcsInsightsFeed

    bucket = asked.url.netloc
    return GcsInsightsFeed(asked.open_bucket(bucket), bucket, asked.url.path, asked.scope)


def _azure_change_feed(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.azure_change_feed import CONTAINER, AzureChangeFeed

    account, container = asked.url.netloc, asked.url.path.strip("/")
    if container != asked.site.bucket:
        raise ConfigError(
            "the change feed is asked for another container than the source's",
            where=f"feed {asked.url.geturl()!r}",
            expected=asked.site.bucket,
            found=container or "none",
        )
    return AzureChangeFeed(asked.open_bucket(CONTAINER), account, asked.scope)


def _azure_queue(asked: _Asked) -> ChangeFeed:
    from holdfast.engine.replication.feeds.azure_queue import AzureQueueFeed

    queue = asked.url.path.strip("/")
    if not queue or "/" in queue:
        raise _malformed(asked, _SCHEMES["azure-queue"].form)
    return AzureQueueFeed(
        asked.url.netloc,
        queue,
        asked.site,
        asked.connection,
        asked.scope,
        access=asked.access,
        **asked.options,
    )


_WAITS = ("wait_seconds", "timeout_seconds")
_SCHEMES = {
    "sqs": _Scheme(Cloud.AWS, "sqs://[<account id>/]<queue>", _sqs, (*_WAITS, "visibility_seconds")),
    "s3-inventory": _Scheme(
        Cloud.AWS, "s3-inventory://<bucket>/<prefix>/<source bucket>/<configuration id>", _s3_inventory
    ),
    "pubsub": _Scheme(Cloud.GCP, "pubsub://projects/<project>/subscriptions/<subscription>", _pubsub, _WAITS),
    "gcs-insights": _Scheme(Cloud.GCP, "gcs-insights://<bucket>/<path>/<configuration id>", _gcs_insights),
    "azure-changefeed": _Scheme(Cloud.AZURE, "azure-changefeed://<account>/<container>", _azure_change_feed),
    "azure-queue": _Scheme(
        Cloud.AZURE,
        "azure-queue://<account>/<queue>",
        _azure_queue,
        ("timeout_seconds", "visibility_seconds", "most_deliveries"),
    ),
}
