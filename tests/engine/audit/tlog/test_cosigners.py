"""Keys of three clouds cosign a note: AWS on moto, Google Cloud and Azure by their SDKs against loopback services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.clock import FakeClock
from holdfast.engine.audit.tlog.cosigner_urls import cosigner_from_url
from holdfast.engine.audit.tlog.cosigners_aws import AwsKmsCosigner
from holdfast.engine.audit.tlog.cosigners_azure import AzureKeyVaultCosigner
from holdfast.engine.audit.tlog.cosigners_file import signer_from_file
from holdfast.engine.audit.tlog.cosigners_gcp import GcpKmsCosigner
from holdfast.engine.audit.tlog.errors import NoteRefused, SignerError
from holdfast.engine.audit.tlog.keys import Algorithm, LocalSigner, VerifierKey
from holdfast.engine.audit.tlog.notes import Checkpoint, Policy, Quorum, sign, verify_checkpoint
from holdfast.engine.config import Connection
from holdfast.engine.keyservice.errors import KeyServiceRefused, KeyServiceUnavailable
from holdfast.errors import ConfigError
from kms_services import GCP_SIGNING_KEY, CloudKms, KeyVault

ORIGIN = "example.com/ledger"
CHECKPOINT = Checkpoint(ORIGIN, 7, sha256(b"root").digest())
MESSAGE = CHECKPOINT.text.encode()
AWS = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}


@pytest.fixture
def moto() -> Iterator[None]:
    from moto import mock_aws

    with mock_aws():
        yield


def aws_key(spec: str = "ECC_NIST_P256") -> str:
    import boto3

    made = boto3.client("kms", **AWS).create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    return str(made["KeyMetadata"]["Arn"])


@pytest.fixture
def aws(moto: None) -> AwsKmsCosigner:
    """With the client the leaf makes itself, from the connection."""
    return AwsKmsCosigner(aws_key(), Connection(conn_id="aws", conn_type="aws", login="a", password="b"))


@pytest.fixture
def google() -> Iterator[CloudKms]:
    service = CloudKms()
    yield service
    service.close()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyVault]:
    service = KeyVault(tmp_path_factory.mktemp("key-vault"))
    yield service
    service.close()


def of_google(service: CloudKms, name: str = GCP_SIGNING_KEY) -> GcpKmsCosigner:
    return GcpKmsCosigner(name, client=service.client())


def of_azure(service: KeyVault) -> AzureKeyVaultCosigner:
    return AzureKeyVaultCosigner(service.signing_url, client=service.client(), clock=FakeClock())


def test_two_of_three_clouds_cosign_and_their_texts_verify_it_offline(
    aws: AwsKmsCosigner, google: CloudKms, azure: KeyVault
) -> None:
    log = LocalSigner.of(ORIGIN, Ed25519PrivateKey.generate())
    cosigners = [aws, of_google(google), of_azure(azure)]
    texts = [str(each.key) for each in cosigners]
    offline = tuple(map(VerifierKey.parse, texts))
    policy = Policy((Quorum(1, (log.key,), "log"), Quorum(2, offline, "clouds")))
    data = sign(CHECKPOINT.text, [log, *cosigners])
    checkpoint, verified = verify_checkpoint(data, ORIGIN, policy)
    assert checkpoint == CHECKPOINT
    assert [key.name for key in verified.signed_by] == [ORIGIN, "aws-kms", "gcp-kms", "azure-key-vault"]
    assert {key.algorithm for key in offline} == {Algorithm.ECDSA_P256}
    for two in (cosigners[:2], cosigners[1:], cosigners[::2]):
        assert len(verify_checkpoint(sign(CHECKPOINT.text, [log, *two]), ORIGIN, policy)[1].signed_by) == 3
    with pytest.raises(NoteRefused, match="clouds"):
        verify_checkpoint(sign(CHECKPOINT.text, [log, aws]), ORIGIN, policy)


# -- AWS -------------------------------------------------------------------------------------------------------------


def test_aws_is_asked_to_sign_the_text_itself() -> None:
    """Not a digest: of that moto makes another signature, which its own Verify takes and nobody else does."""
    import boto3
    from botocore.stub import Stubber

    private = ec.generate_private_key(ec.SECP256R1())
    der = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    client = boto3.client("kms", **AWS)
    with Stubber(client) as stub:
        asked = {"KeyId": arn, "Message": MESSAGE, "MessageType": "RAW", "SigningAlgorithm": "ECDSA_SHA_256"}
        stub.add_response("sign", {"Signature": LocalSigner.of("x", private).sign(MESSAGE)}, asked)
        stub.add_response("get_public_key", {"PublicKey": der}, {"KeyId": arn})
        assert AwsKmsCosigner(arn, client=client).sign(MESSAGE)


def test_a_signature_aws_made_of_something_else_is_refused_here(aws: AwsKmsCosigner) -> None:
    import boto3

    client = boto3.client("kms", **AWS)

    class Elsewhere:
        """A service that signs the digest's digest."""

        def sign(self, **asked: Any) -> Any:
            return client.sign(**{**asked, "Message": sha256(asked["Message"]).digest()})

        def get_public_key(self, **asked: Any) -> Any:
            return client.get_public_key(**asked)

    with pytest.raises(SignerError, match="not of this text"):
        AwsKmsCosigner(aws.key_name, client=Elsewhere()).sign(MESSAGE)


def test_a_text_too_long_for_aws_is_refused_before_it_is_sent(aws: AwsKmsCosigner) -> None:
    assert aws.sign(b"x" * 4096)
    with pytest.raises(ConfigError, match="4096"):
        aws.sign(b"x" * 4097)


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P384"])
def test_an_aws_key_of_another_kind_is_refused(moto: None, spec: str) -> None:
    with pytest.raises(ConfigError, match="P-256"):
        _ = AwsKmsCosigner(aws_key(spec), Connection(conn_id="a", conn_type="aws", login="a", password="b")).key


def test_aws_without_the_right_to_sign_is_refused(moto: None) -> None:
    import boto3
    from moto.core import set_initial_no_auth_action_count

    iam = boto3.client("iam", **AWS)
    iam.create_user(UserName="reader")
    pair = iam.create_access_key(UserName="reader")["AccessKey"]
    allowed = {"Effect": "Allow", "Action": "kms:GetPublicKey", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=document)
    connection = Connection(conn_id="w", conn_type="aws", login=pair["AccessKeyId"], password=pair["SecretAccessKey"])
    cosigner = AwsKmsCosigner(aws_key(), connection)

    @set_initial_no_auth_action_count(0)
    def use() -> None:
        assert cosigner.key
        with pytest.raises(KeyServiceRefused, match="kms:Sign"):
            cosigner.sign(MESSAGE)

    use()


# -- Google Cloud ----------------------------------------------------------------------------------------------------


def test_what_google_shows_or_signs_damaged_on_the_way_is_asked_for_again(google: CloudKms) -> None:
    cosigner = of_google(google)
    google.tampers_answers = 1
    assert cosigner.key
    google.tampers_answers, google.tampers_requests = 1, 1
    assert cosigner.sign(MESSAGE)
    assert google.calls == ["GetPublicKey"] * 2 + ["AsymmetricSign"] * 2
    google.tampers_answers = 3
    with pytest.raises(KeyServiceUnavailable, match="CRC-32C"):
        cosigner.sign(MESSAGE)
    google.signed_by = GCP_SIGNING_KEY.replace("Versions/1", "Versions/2")
    with pytest.raises(KeyServiceUnavailable):
        cosigner.sign(MESSAGE)


def test_google_is_tried_again_when_away_and_not_when_it_refuses(google: CloudKms) -> None:
    cosigner = of_google(google)
    google.fails = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    assert cosigner.sign(MESSAGE)
    google.denied = True
    with pytest.raises(KeyServiceRefused, match="useToSign"):
        cosigner.sign(MESSAGE)
    with pytest.raises(KeyServiceRefused, match="viewPublicKey"):
        _ = of_google(google).key
    assert max(google.deadlines) <= 5.5


def test_a_signature_google_made_by_another_key_is_refused_here(google: CloudKms) -> None:
    cosigner = of_google(google)
    assert cosigner.key
    google.signing[GCP_SIGNING_KEY] = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(SignerError, match="not of this text"):
        cosigner.sign(MESSAGE)


def test_a_google_key_of_another_kind_is_refused(google: CloudKms) -> None:
    with pytest.raises(ConfigError, match="P-256"):
        _ = of_google(google, GCP_SIGNING_KEY.replace("Versions/1", "Versions/2")).key


# -- Azure -----------------------------------------------------------------------------------------------------------


def test_azure_s_numbers_become_der_whatever_their_first_bits_are(azure: KeyVault) -> None:
    cosigner = of_azure(azure)
    lengths = {len(cosigner.sign(b"text %d" % number)) for number in range(24)}
    assert len(lengths) > 1, "a number of which the first bit is set takes one byte more in DER"


def test_azure_is_tried_again_when_ill_and_not_when_it_refuses(azure: KeyVault) -> None:
    cosigner = of_azure(azure)
    azure.fails = [503, 429]
    assert cosigner.sign(MESSAGE)
    azure.fails = [503, 500, 429]
    with pytest.raises(KeyServiceUnavailable, match="429"):
        cosigner.sign(MESSAGE)
    azure.denied = True
    with pytest.raises(KeyServiceRefused, match="keys/sign"):
        cosigner.sign(MESSAGE)
    azure.denied = False


def test_a_signature_azure_made_of_something_else_is_refused_here(azure: KeyVault) -> None:
    azure.signs_instead = bytes(32)
    with pytest.raises(SignerError, match="not of this text"):
        of_azure(azure).sign(MESSAGE)
    azure.signs_instead = None


def test_an_azure_key_of_another_kind_is_refused(azure: KeyVault) -> None:
    version = next(iter(azure.versions))
    with pytest.raises(ConfigError, match=r"P-256; found RSA"):
        _ = AzureKeyVaultCosigner(f"{azure.key_url}/{version}", client=azure.client()).key


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_cosigner_is_read_from_its_text(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    url = "https://n.vault.azure.net/keys/k/" + "0a" * 16
    assert cosigner_from_url(f"aws-kms:{arn}", "o") == AwsKmsCosigner(arn, name="o/aws-kms")
    assert cosigner_from_url(f"aws-kms:{arn}#mine", "o") == AwsKmsCosigner(arn, name="mine")
    assert cosigner_from_url(f"gcp-kms:{GCP_SIGNING_KEY}", "o") == GcpKmsCosigner(GCP_SIGNING_KEY, name="o/gcp-kms")
    assert cosigner_from_url(f"azure-key-vault:{url}", "o") == AzureKeyVaultCosigner(url, name="o/azure-key-vault")
    signer = cosigner_from_url(f"file:{path}", "o")
    assert (signer.key.name, signer.key.algorithm) == ("o/file", Algorithm.ECDSA_P256)
    assert signer.key.verifies(MESSAGE, signer.sign(MESSAGE))


def pem(key: Any, password: bytes | None = None) -> bytes:
    encryption: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


def test_a_file_that_holds_no_such_key_is_refused_and_nothing_of_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    assert signer_is_refused(path)
    for data in (
        b"5ec4e7",
        pem(rsa.generate_private_key(65537, 2048)),
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(Ed25519PrivateKey.generate(), b"a password"),
    ):
        path.write_bytes(data)
        assert "5ec4e7" not in signer_is_refused(path)


def signer_is_refused(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        signer_from_file(path, "o/file")
    return str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "aws-kms:alias/escrow",
        f"gcp-kms:{GCP_SIGNING_KEY.rpartition('/cryptoKeyVersions')[0]}",
        "azure-key-vault:https://n.vault.azure.net/keys/k",
        "azure-key-vault:https://vault.example.org/keys/k/" + "0a" * 16,
        "age:age1nothing",
        "file:/does/not/exist",
        "file:/does/not/exist#a name",
        "escrow",
    ],
)
def test_a_text_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        cosigner_from_url(text, "example.com/ledger")
