"""Traffic records at the providers: the emulated Cloud DNS under faults, and moto's Route 53."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from holdfast.engine.config import Connection, EnvironmentConnections, Record, Service
from holdfast.engine.traffic import (
    Address,
    NotResolved,
    StaleTrafficEpoch,
    TrafficState,
    TrafficUnavailable,
    open_record,
    resolve_service,
)
from holdfast.engine.traffic.change import ChangeConflict, RecordSet, ZoneRecord
from holdfast.engine.traffic.cloud_dns import CloudDnsZone
from holdfast.engine.traffic.route53 import Route53Zone
from holdfast.errors import ConfigError
from holdfast.sandbox import Sandbox

GCP = "gcp-europe-west1"


def service(**changes: Any) -> Service:
    fields = {
        "provider": "cloud-dns",
        "site": "bb",
        "connection": "holdfast_gcp_dns",
        "zone": "holdfast-sandbox",
        "name": f"_p._tcp.{uuid.uuid4().hex[:8]}.holdfast.test.",
        "type": "SRV",
        "ttl_seconds": 1,
        "values": {"aa": "0 0 1001 aws-eu-west-1.holdfast.test.", "bb": "0 0 1002 azure-westeurope.holdfast.test."},
    }
    return Service(model="the-model", endpoints={}, record=Record.model_validate({**fields, **changes}))


@pytest.fixture
def connection(sandbox: Sandbox) -> Connection:
    return EnvironmentConnections(sandbox.environment()).get("holdfast_gcp_dns")


@pytest.fixture
def resolver(sandbox: Sandbox) -> str:
    return sandbox.environment()["HOLDFAST_RESOLVER"]


class TestCloudDns:
    def test_a_client_follows_the_switch(self, connection: Connection, resolver: str) -> None:
        served = service()
        record = open_record(served, connection, timeout_seconds=5)
        assert record.read() is None
        for epoch, site, port in ((1, "aa", 1001), (2, "bb", 1002), (3, "aa", 1001)):
            state = record.switch(site, epoch=epoch)
            # The first answer, not the first right one: a switch is seen at once.
            assert resolve_service(served.record, resolver=resolver, timeout=2) == [Address("127.0.0.1", port)]
            assert state == record.read() == TrafficState(site, epoch, (served.record.values[site],), 1)
        with pytest.raises(StaleTrafficEpoch):
            record.switch("bb", epoch=2)

    def test_racing_switchers_end_in_the_newest_epoch(self, connection: Connection) -> None:
        served = service()

        def switch(epoch: int) -> None:
            with contextlib.suppress(StaleTrafficEpoch):
                open_record(served, connection, timeout_seconds=20).switch(("aa", "bb")[epoch % 2], epoch=epoch)

        threads = [threading.Thread(target=switch, args=(epoch,)) for epoch in (3, 1, 4, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        state = open_record(served, connection, timeout_seconds=5).read()
        assert state is not None
        assert (state.site, state.epoch) == ("aa", 4)

    def test_an_answer_lost_on_the_way_is_found_out(self, sandbox: Sandbox, connection: Connection) -> None:
        """The API applies the change and its answer never comes; the next look sees that it was done, once."""
        served = service()
        zone = CloudDnsZone("holdfast-sandbox", connection, timeout_seconds=2)
        sent = []

        class LosesTheAnswer:
            read = zone.read

            def replace(self, deletions: tuple[RecordSet, ...], additions: tuple[RecordSet, ...]) -> None:
                sent.append(additions)
                sandbox.fault(GCP, "half-open", listener="dns")
                try:
                    zone.replace(deletions, additions)
                finally:
                    sandbox.clear(GCP)

        record = ZoneRecord(served.record, LosesTheAnswer(), timeout_seconds=60)
        assert record.switch("aa", epoch=1).epoch == 1
        assert len(sent) == 1
        state = record.read()
        assert state is not None
        assert (state.site, state.epoch) == ("aa", 1)

    @pytest.mark.parametrize("mode", ["down", "blackhole", "http503", "half-open"])
    def test_a_control_plane_that_is_gone_is_said_within_the_budget(
        self, sandbox: Sandbox, connection: Connection, mode: str
    ) -> None:
        sandbox.fault(GCP, mode)
        begun = time.monotonic()
        with pytest.raises(TrafficUnavailable):
            open_record(service(), connection, timeout_seconds=1).switch("aa", epoch=1)
        assert time.monotonic() - begun < 5

    def test_a_wrong_zone_or_connection_is_bad_input(self, connection: Connection) -> None:
        with pytest.raises(ConfigError, match="nowhere"):
            open_record(service(zone="nowhere"), connection, timeout_seconds=5).switch("aa", epoch=1)
        with pytest.raises(ConfigError, match="project"):
            open_record(service(), Connection(conn_id="c", conn_type="x"), timeout_seconds=5)
        bad_key = Connection(
            conn_id="c", conn_type="x", extra={"project": "p", "keyfile_dict": '{"private_key": "S3CRET"}'}
        )
        with pytest.raises(ConfigError, match="credentials") as caught:
            open_record(service(), bad_key, timeout_seconds=5).read()
        assert "S3CRET" not in str(caught.value)


class TestResolve:
    def test_a_name_that_is_not_there_is_not_resolved(self, resolver: str) -> None:
        with pytest.raises(NotResolved, match="NXDOMAIN"):
            resolve_service(service().record, resolver=resolver, timeout=2)

    def test_an_alias_is_followed(self, connection: Connection, resolver: str) -> None:
        served = service(
            type="CNAME",
            name=f"alias-{uuid.uuid4().hex[:8]}.holdfast.test.",
            values={"aa": "aws-eu-west-1.holdfast.test."},
        )
        open_record(served, connection, timeout_seconds=5).switch("aa", epoch=1)
        assert resolve_service(served.record, resolver=resolver, timeout=2) == [Address("127.0.0.1", None)]

    def test_no_resolver_and_a_wrong_address(self, free_port: Any) -> None:
        with pytest.raises(NotResolved):
            resolve_service(service().record, resolver=f"127.0.0.1:{free_port()}", timeout=0.5)
        with pytest.raises(ConfigError, match="host:port"):
            resolve_service(service().record, resolver="not an address", timeout=1)


class TestRoute53:
    """moto applies batches one change at a time and compares a DELETE with all that ever was, so what it shows is the
    dialogue; that a conflict is taken for one is shown with the errors AWS documents."""

    @pytest.fixture
    def client(self) -> Iterator[Any]:
        with mock_aws():
            yield boto3.client("route53", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")

    @pytest.fixture
    def zone_id(self, client: Any) -> str:
        return client.create_hosted_zone(Name="holdfast.test.", CallerReference="1")["HostedZone"]["Id"].rpartition(
            "/"
        )[2]

    def test_switch_read_and_refuse(self, client: Any, zone_id: str) -> None:
        served = service(provider="route53", zone=zone_id)
        aws = Connection(conn_id="aws", conn_type="aws", login="x", password="x", extra={"region_name": "eu-west-1"})
        record = open_record(served, aws, timeout_seconds=5)
        assert record.read() is None
        for epoch, site in ((1, "aa"), (2, "bb"), (2, "bb")):
            state = record.switch(site, epoch=epoch)
            assert state == record.read() == TrafficState(site, epoch, (served.record.values[site],), 1)
        with pytest.raises(StaleTrafficEpoch):
            record.switch("aa", epoch=1)
        held = client.list_resource_record_sets(HostedZoneId=zone_id)["ResourceRecordSets"]
        assert sorted(one["Type"] for one in held) == ["NS", "SOA", "SRV", "TXT"]

    def test_a_wrong_zone_is_bad_input(self, client: Any) -> None:
        zone = Route53Zone("ZNOWHERE", Connection(conn_id="aws", conn_type="aws"), timeout_seconds=1, client=client)
        with pytest.raises(ConfigError, match="ZNOWHERE"):
            ZoneRecord(service().record, zone, timeout_seconds=1).read()

    @pytest.mark.parametrize(
        ("code", "status", "expected"),
        [
            ("InvalidChangeBatch", 400, ChangeConflict),
            ("PriorRequestNotComplete", 400, TrafficUnavailable),
            ("Throttling", 400, TrafficUnavailable),
            ("ServiceUnavailable", 503, TrafficUnavailable),
            ("AccessDenied", 403, ConfigError),
            ("NoSuchHostedZone", 404, ConfigError),
        ],
    )
    def test_what_aws_documents_is_understood(self, code: str, status: int, expected: type[Exception]) -> None:
        client = boto3.client("route53", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        zone = Route53Zone("Z1", Connection(conn_id="aws", conn_type="aws"), timeout_seconds=1, client=client)
        held = RecordSet("n.x.test.", "TXT", 1, ('"epoch=1 site=aa"',))
        with Stubber(client) as stub:
            stub.add_client_error("change_resource_record_sets", code, http_status_code=status)
            with pytest.raises(expected):
                zone.replace((held,), (held,))

    def test_a_batch_deletes_exactly_what_was_read_and_never_upserts(self) -> None:
        client = boto3.client("route53", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        zone = Route53Zone("Z1", Connection(conn_id="aws", conn_type="aws"), timeout_seconds=1, client=client)
        old, new = RecordSet("n.", "TXT", 1, ('"old"',)), RecordSet("n.", "TXT", 1, ('"new"',))
        shown = {
            text: {"Name": "n.", "Type": "TXT", "TTL": 1, "ResourceRecords": [{"Value": f'"{text}"'}]}
            for text in ("old", "new")
        }
        with Stubber(client) as stub:
            stub.add_response(
                "change_resource_record_sets",
                {"ChangeInfo": {"Id": "1", "Status": "PENDING", "SubmittedAt": "2026-01-01T00:00:00Z"}},
                {
                    "HostedZoneId": "Z1",
                    "ChangeBatch": {
                        "Changes": [
                            {"Action": "DELETE", "ResourceRecordSet": shown["old"]},
                            {"Action": "CREATE", "ResourceRecordSet": shown["new"]},
                        ]
                    },
                },
            )
            zone.replace((old,), (new,))
            stub.assert_no_pending_responses()

    def test_an_endpoint_that_is_gone_is_said_within_the_budget(self, free_port: Any) -> None:
        gone = Connection(
            conn_id="aws",
            conn_type="aws",
            login="x",
            password="x",
            extra={"endpoint_url": f"http://127.0.0.1:{free_port()}"},
        )
        with pytest.raises(TrafficUnavailable):
            open_record(service(provider="route53", zone="Z1"), gone, timeout_seconds=1).switch("aa", epoch=1)
