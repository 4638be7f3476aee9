"""KMS recipients: AWS on moto, Google Cloud and Azure through their SDKs against strict services on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import KeyServiceRefused, KeyServiceUnavailable
from holdfast.engine.objectstore import memory_store
from holdfast.engine.vault.errors import Damaged, WrongKey
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.kms_aws import AwsKmsRecipient
from holdfast.engine.vault.kms_azure import AzureKeyVaultRecipient
from holdfast.engine.vault.kms_gcp import GcpKmsRecipient
from holdfast.engine.vault.recipient_urls import recipient_from_url
from holdfast.engine.vault.recipients import AgeRecipient, Recipient, SecretRecipient
from holdfast.errors import ConfigError
from kms_services import GCP_KEY, CloudKms, KeyVault
from vault_world import VaultWorld, read_tree, some_files, write_tree

KEY = bytes(range(32))
CONTEXT = {"holdfast-repository": "ab", "holdfast-role": "reader", "holdfast-keyset": "cd"}
ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def moto() -> Iterator[None]:
    from moto import mock_aws

    with mock_aws():
        yield


@pytest.fixture
def aws(moto: None) -> AwsKmsRecipient:
    """With the client the leaf makes itself, from the connection."""
    import boto3

    login = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}
    arn = boto3.client("kms", **login).create_key()["KeyMetadata"]["Arn"]
    return AwsKmsRecipient(arn, Connection(conn_id="aws", conn_type="aws", login="a", password="b"))


@pytest.fixture
def google() -> Iterator[CloudKms]:
    service = CloudKms()
    yield service
    service.close()


@pytest.fixture
def azure(tmp_path: Path) -> Iterator[KeyVault]:
    service = KeyVault(tmp_path)
    yield service
    service.close()


def of_google(service: CloudKms) -> GcpKmsRecipient:
    return GcpKmsRecipient(GCP_KEY, client=service.client())


def of_azure(service: KeyVault, version: str = "") -> AzureKeyVaultRecipient:
    return AzureKeyVaultRecipient(f"{service.key_url}{version}", client=service.client(), clock=FakeClock())


# -- AWS -------------------------------------------------------------------------------------------------------------


def test_aws_opens_what_it_wrapped_in_its_context_only(aws: AwsKmsRecipient) -> None:
    wrapped = aws.wrap(KEY, CONTEXT)
    assert KEY not in wrapped
    assert aws.unwrap(wrapped, CONTEXT) == KEY
    for context in ({**CONTEXT, "holdfast-role": "writer"}, {}):
        with pytest.raises(WrongKey):
            aws.unwrap(wrapped, context)
    with pytest.raises(WrongKey):
        aws.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)


def test_aws_without_the_right_is_refused_and_not_taken_for_a_wrong_key(moto: None) -> None:
    import boto3
    from moto.core import set_initial_no_auth_action_count

    region = {"region_name": "eu-west-1"}
    iam = boto3.client("iam", aws_access_key_id="a", aws_secret_access_key="b", **region)
    iam.create_user(UserName="writer")
    pair = iam.create_access_key(UserName="writer")["AccessKey"]
    login = {"aws_access_key_id": pair["AccessKeyId"], "aws_secret_access_key": pair["SecretAccessKey"]}
    arn = boto3.client("kms", **login, **region).create_key()["KeyMetadata"]["Arn"]
    allowed = {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="writer", PolicyName="p", PolicyDocument=document)
    connection = Connection(conn_id="w", conn_type="aws", login=pair["AccessKeyId"], password=pair["SecretAccessKey"])
    recipient = AwsKmsRecipient(arn, connection)

    @set_initial_no_auth_action_count(0)
    def use() -> None:
        wrapped = recipient.wrap(KEY, CONTEXT)
        with pytest.raises(KeyServiceRefused, match="kms:Decrypt"):
            recipient.unwrap(wrapped, CONTEXT)

    use()


def test_aws_that_is_away_is_unavailable_within_its_limits(free_port: Any) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    connection = Connection(
        conn_id="a", conn_type="aws", login="a", password="b", extra={"service_config": {"kms": {"endpoint_url": gone}}}
    )
    recipient = AwsKmsRecipient(ARN, connection)
    config = recipient._client().meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 5)
    assert config.retries["total_max_attempts"] == 3
    assert recipient._client().meta.region_name == "eu-west-1"
    with pytest.raises(KeyServiceUnavailable):
        recipient.unwrap(b"x", CONTEXT)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("ThrottlingException", 400, KeyServiceUnavailable),
        ("KMSInternalException", 500, KeyServiceUnavailable),
        ("DisabledException", 409, KeyServiceRefused),
        ("KMSInvalidStateException", 409, KeyServiceRefused),
        ("NotFoundException", 400, KeyServiceRefused),
        ("IncorrectKeyException", 400, WrongKey),
    ],
)
def test_what_aws_answers_is_told_apart(code: str, status: int, error: type[Exception]) -> None:
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("kms", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        stub.add_client_error("decrypt", code, http_status_code=status)
        with pytest.raises(error) as raised:
            AwsKmsRecipient(ARN, client=client).unwrap(b"x", CONTEXT)
    assert type(raised.value) is error


# -- Google Cloud ----------------------------------------------------------------------------------------------------


def test_google_opens_what_it_wrapped_in_its_context_only(google: CloudKms) -> None:
    recipient = of_google(google)
    wrapped = recipient.wrap(KEY, CONTEXT)
    google.rotate()
    assert recipient.unwrap(wrapped, CONTEXT) == KEY, "a new version took the old one's place"
    with pytest.raises(WrongKey):
        recipient.unwrap(wrapped, {**CONTEXT, "holdfast-role": "writer"})
    with pytest.raises(WrongKey):
        recipient.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)
    assert max(google.deadlines) <= 5.5


@pytest.mark.parametrize("what", ["tampers_answers", "tampers_requests"])
def test_bytes_changed_on_the_way_to_or_from_google_are_asked_for_again(google: CloudKms, what: str) -> None:
    recipient = of_google(google)
    setattr(google, what, 1)
    wrapped = recipient.wrap(KEY, CONTEXT)
    assert google.calls == ["Encrypt", "Encrypt"]
    google.tampers_answers = 2
    assert recipient.unwrap(wrapped, CONTEXT) == KEY
    google.tampers_answers = 3
    with pytest.raises(KeyServiceUnavailable, match="CRC-32C"):
        recipient.unwrap(wrapped, CONTEXT)


def test_google_is_tried_again_when_away_and_not_when_it_refuses(google: CloudKms) -> None:
    recipient = of_google(google)
    google.fails = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    wrapped = recipient.wrap(KEY, CONTEXT)
    assert len(google.calls) == 3
    google.denied = True
    with pytest.raises(KeyServiceRefused, match="useToDecrypt"):
        recipient.unwrap(wrapped, CONTEXT)
    assert len(google.calls) == 4


# -- Azure -----------------------------------------------------------------------------------------------------------


def test_azure_opens_with_the_version_that_wrapped(azure: KeyVault) -> None:
    recipient = of_azure(azure)
    wrapped = recipient.wrap(KEY, CONTEXT)
    azure.rotate()
    assert recipient.unwrap(wrapped, CONTEXT) == KEY
    assert of_azure(azure, f"/{next(iter(azure.versions))}").unwrap(wrapped, CONTEXT) == KEY
    with pytest.raises(WrongKey):
        recipient.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)
    with pytest.raises(WrongKey):
        recipient.unwrap(b"no version" + wrapped, CONTEXT)


def test_azure_with_a_version_needs_no_right_to_look(azure: KeyVault) -> None:
    version = next(iter(azure.versions))
    of_azure(azure, f"/{version}").wrap(KEY, CONTEXT)
    assert azure.requests == [f"POST /keys/escrow/{version}/wrapkey"]


def test_azure_is_tried_again_when_ill_and_not_when_it_refuses(azure: KeyVault) -> None:
    recipient = of_azure(azure)
    wrapped = recipient.wrap(KEY, CONTEXT)
    azure.fails = [503, 429]
    assert recipient.unwrap(wrapped, CONTEXT) == KEY
    azure.fails = [503, 500, 429]
    with pytest.raises(KeyServiceUnavailable, match="429"):
        recipient.unwrap(wrapped, CONTEXT)
    asked = len(azure.requests)
    azure.denied = True
    with pytest.raises(KeyServiceRefused, match="ForbiddenByRbac"):
        recipient.unwrap(wrapped, CONTEXT)
    assert len(azure.requests) == asked + 1


def test_azure_that_is_away_is_unavailable(azure: KeyVault) -> None:
    wrapped = of_azure(azure).wrap(KEY, CONTEXT)
    again = of_azure(azure)  # whose connection is not open yet
    azure.close()
    with pytest.raises(KeyServiceUnavailable):
        again.unwrap(wrapped, CONTEXT)


def test_azure_gives_its_token_to_no_other_host() -> None:
    with pytest.raises(ConfigError, match=r"vault\.azure\.net"):
        AzureKeyVaultRecipient("https://vault.example.org/keys/escrow")
    with pytest.raises(ConfigError):
        AzureKeyVaultRecipient("http://name.vault.azure.net/keys/escrow")


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_recipient_is_read_from_its_name(tmp_path: Path) -> None:
    pair = AgeRecipient.make()
    assert pair.identity is not None
    (tmp_path / "secret").write_text(KEY.hex() + "\n")
    (tmp_path / "identity").write_text(f"# made today\n{pair.identity}\n")
    environ = {"ESCROW": KEY.hex(), "OFFLINE": pair.identity}
    named = {
        f"age:{pair.key_name}": AgeRecipient(pair.key_name),
        f"file:{tmp_path}/secret": SecretRecipient("secret", KEY),
        f"file:{tmp_path}/secret#old-name": SecretRecipient("old-name", KEY),
        f"file:{tmp_path}/identity": pair,
        "env:ESCROW": SecretRecipient("ESCROW", KEY),
        "env:OFFLINE": pair,
        f"aws-kms:{ARN}": AwsKmsRecipient(ARN),
        f"gcp-kms:{GCP_KEY}": GcpKmsRecipient(GCP_KEY),
        "azure-key-vault:https://n.vault.azure.net/keys/k": AzureKeyVaultRecipient("https://n.vault.azure.net/keys/k"),
    }
    for text, wanted in named.items():
        assert recipient_from_url(text, environ=environ) == wanted, text


@pytest.mark.parametrize(
    "text",
    [
        "age:age1nothing",
        "file:/does/not/exist",
        "env:NOT_SET",
        "env:SHORT",
        "aws-kms:alias/escrow",
        "aws-kms:arn:aws:kms:eu-west-1:123456789012:alias/escrow",
        f"gcp-kms:{GCP_KEY}/cryptoKeyVersions/1",
        "azure-key-vault:https://n.vault.azure.net/secrets/k",
        "vault:transit",
        "escrow",
    ],
)
def test_a_name_of_nothing_is_refused_and_no_secret_is_said(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recipient_from_url(text, environ={"SHORT": "5ec4e7"})
    assert "5ec4e7" not in str(raised.value)


def test_an_identity_in_a_configuration_is_refused_without_showing_it() -> None:
    identity = AgeRecipient.make().identity
    assert identity is not None
    with pytest.raises(ConfigError) as raised:
        recipient_from_url(f"age:{identity}")
    assert identity[20:] not in str(raised.value)


# -- the whole -------------------------------------------------------------------------------------------------------


class Down:
    """A recipient whose service does not answer."""

    def __init__(self, of: Recipient) -> None:
        self.kind, self.key_name = of.kind, of.key_name

    def wrap(self, key: bytes, context: dict[str, str]) -> bytes:
        raise KeyServiceUnavailable("away", where=self.key_name)

    def unwrap(self, wrapped: bytes, context: dict[str, str]) -> bytes:
        raise KeyServiceUnavailable("away", where=self.key_name)


def test_a_vault_for_two_clouds_and_an_offline_key_opens_with_any_one_alone(
    aws: AwsKmsRecipient, google: CloudKms, tmp_path: Path
) -> None:
    offline, world = AgeRecipient.make(), VaultWorld()
    everybody: list[Recipient] = [aws, of_google(google), AgeRecipient(offline.key_name)]
    make_vault("vault", world.store, dict.fromkeys(("writer", "reader", "admin"), everybody), witnesses=world.witnesses)
    write_tree(tmp_path / "source", some_files(count=4))
    world.recipient = aws
    world.back_up(tmp_path / "source")
    for number, alone in enumerate((aws, of_google(google), offline)):
        world.recipient = alone
        world.restore(tmp_path / f"out-{number}")
        assert read_tree(tmp_path / f"out-{number}") == some_files(count=4)


def test_a_key_service_that_refuses_or_is_away_gives_way_to_the_next(
    aws: AwsKmsRecipient, google: CloudKms, azure: KeyVault
) -> None:
    store, cloud, vault = memory_store("vault"), of_google(google), of_azure(azure)
    _, made = make_vault("vault", store, {role: [aws, cloud, vault] for role in ("writer", "reader", "admin")})
    google.denied = True
    azure.fails = [503] * 6
    assert unlock(store, "reader", [cloud, aws]) == made.reader
    assert unlock(store, "reader", [Down(aws), cloud, vault, aws]) == made.reader
    with pytest.raises(WrongKey, match="useToDecrypt"):
        unlock(store, "reader", [cloud])
    with pytest.raises(KeyServiceUnavailable) as raised:
        unlock(store, "reader", [cloud, Down(aws)])
    assert raised.value.transient


def test_one_key_service_that_is_away_makes_no_key_set(google: CloudKms) -> None:
    """Else its share of the escrow would be missing without anybody knowing."""
    store = memory_store("vault")
    recipients: list[Recipient] = [Down(of_google(google)), AgeRecipient.make()]
    with pytest.raises(KeyServiceUnavailable):
        make_vault("vault", store, dict.fromkeys(("writer", "reader", "admin"), recipients))
    assert list(store.list("keys/")) == []


@pytest.mark.parametrize("field", ["wrapped", "key", "sealed", "keyset"])
def test_a_damaged_key_object_gives_way_to_its_copy(field: str) -> None:
    """Also where the damage looks like a key that does not fit."""
    recipient, store = AgeRecipient.make(), memory_store("vault")
    _, made = make_vault("vault", store, {role: [recipient] for role in ("writer", "reader", "admin")})
    first, second = (info.key for info in store.list("keys/") if b'"role":"reader"' in store.get(info.key))
    document = json.loads(store.get(first))
    place = document["recipients"][0] if field in ("wrapped", "key") else document
    middle = len(place[field]) // 2
    place[field] = place[field][:middle] + ("A" if place[field][middle] != "A" else "B") + place[field][middle + 1 :]
    store.put(first, json.dumps(document).encode())
    assert unlock(store, "reader", [recipient]) == made.reader
    store.put(second, json.dumps(document).encode())
    with pytest.raises((WrongKey, Damaged)):
        unlock(store, "reader", [recipient])
