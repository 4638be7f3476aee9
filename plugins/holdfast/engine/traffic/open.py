"""From a service in the topology to its traffic record."""

from __future__ import annotations

from holdfast.clock import Clock
from holdfast.engine.config import Connection, Service
from holdfast.engine.traffic.change import Zone, ZoneRecord
from holdfast.engine.traffic.interface import TrafficRecord


def open_record(
    service: Service, connection: Connection, *, timeout_seconds: float, clock: Clock | None = None
) -> TrafficRecord:
    """The traffic record of a service. Nothing is asked yet.

    Args:
        connection: the one ``service.record.connection`` names.
        timeout_seconds: budget of one `read` or `switch`. A single request gets a third of it, so that an answer that
            was lost leaves time to look what happened. After it no attempt starts; one under way may end later.

    Raises:
        ConfigError: the connection lacks what the provider needs.
    """
    record = service.record
    request_seconds = timeout_seconds / 3
    zone: Zone
    if record.provider == "cloud-dns":
        from holdfast.engine.traffic.cloud_dns import CloudDnsZone

        zone = CloudDnsZone(record.zone, connection, timeout_seconds=request_seconds)
    else:
        from holdfast.engine.traffic.route53 import Route53Zone

        zone = Route53Zone(record.zone, connection, timeout_seconds=request_seconds)
    return ZoneRecord(record, zone, timeout_seconds=timeout_seconds, clock=clock)
