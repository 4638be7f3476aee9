"""The published roles of Google and Azure at their key services: each use of a key is refused without its right.

The services are the tests' own, on loopback, by the clouds' own SDKs: which right a method asks for is this project's
reading of the documentation. AWS's roles are tried in `test_policies_aws`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.audit.posture.privileges import ROLES, azure_actions, gcp_permissions, published
from holdfast.engine.audit.tlog.cosigners_azure import AzureKeyVaultCosigner
from holdfast.engine.audit.tlog.cosigners_gcp import GcpKmsCosigner
from holdfast.engine.keyservice.errors import KeyServiceRefused
from holdfast.engine.vault.kms_azure import AzureKeyVaultRecipient
from holdfast.engine.vault.kms_gcp import GcpKmsRecipient
from kms_services import GCP_KEY, GCP_SIGNING_KEY, CloudKms, KeyVault

BOUND = {"vault": "v"}
KEY = b"k" * 32


def rights_of(cloud: str, role: str) -> list[str]:
    """What a role may do with keys."""
    read = gcp_permissions if cloud == "gcp" else azure_actions
    found = read(published(cloud, role))
    return [one for one in found if one.startswith(("cloudkms.cryptoKeyVersions.", "Microsoft.KeyVault/vaults/keys/"))]


def uses_of(cloud: str) -> list[tuple[str, str]]:
    """Each role with each of its rights; the posture checks only look at what keys are."""
    return [(role, right) for role in ROLES if role != "posture" for right in rights_of(cloud, role)]


@pytest.fixture(scope="module")
def google() -> Iterator[CloudKms]:
    service = CloudKms()
    yield service
    service.close()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyVault]:
    service = KeyVault(tmp_path_factory.mktemp("key-vault"))
    yield service
    service.close()


def is_needed(service: Any, rights: list[str], right: str, use: Callable[[], None]) -> None:
    """With all the role's rights it works, with all but one it is refused, and then it works again."""
    for allowed, works in ((set(rights), True), (set(rights) - {right}, False), (set(rights), True)):
        service.allowed = allowed
        try:
            if works:
                use()
            else:
                with pytest.raises(KeyServiceRefused):
                    use()
        finally:
            service.allowed = None


@pytest.mark.parametrize(("role", "right"), uses_of("gcp"))
def test_googles_roles_use_keys_with_each_right_and_not_without(google: CloudKms, role: str, right: str) -> None:
    recipient = GcpKmsRecipient(GCP_KEY, client=google.client())
    wrapped = recipient.wrap(KEY, BOUND)

    def sign() -> None:
        cosigner = GcpKmsCosigner(GCP_SIGNING_KEY, client=google.client())
        assert cosigner.key.verifies(b"note", cosigner.sign(b"note"))

    def unwrap() -> None:
        assert recipient.unwrap(wrapped, BOUND) == KEY

    def wrap() -> None:
        assert recipient.wrap(KEY, BOUND) != KEY

    uses = {"useToEncrypt": wrap, "useToDecrypt": unwrap, "useToSign": sign, "viewPublicKey": sign}
    is_needed(google, rights_of("gcp", role), right, uses[right.rpartition(".")[2]])


@pytest.mark.parametrize(("role", "right"), uses_of("azure"))
def test_azures_roles_use_keys_with_each_right_and_not_without(azure: KeyVault, role: str, right: str) -> None:
    def recipient() -> AzureKeyVaultRecipient:
        return AzureKeyVaultRecipient(azure.key_url, client=azure.client(), clock=FakeClock())

    wrapped = recipient().wrap(KEY, BOUND)

    def sign() -> None:
        cosigner = AzureKeyVaultCosigner(azure.signing_url, client=azure.client(), clock=FakeClock())
        assert cosigner.key.verifies(b"note", cosigner.sign(b"note"))

    def unwrap() -> None:
        assert recipient().unwrap(wrapped, BOUND) == KEY

    def wrap() -> None:
        assert recipient().wrap(KEY, BOUND) != KEY

    signs = "Microsoft.KeyVault/vaults/keys/sign/action" in rights_of("azure", role)
    # Who wraps asks which version is the newest.
    uses = {"read": sign if signs else wrap, "sign": sign, "wrap": wrap, "unwrap": unwrap}
    verb = right.removeprefix("Microsoft.KeyVault/vaults/keys/").removesuffix("/action")
    is_needed(azure, rights_of("azure", role), right, uses[verb])
