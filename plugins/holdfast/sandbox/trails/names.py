"""Where each emulated cloud's trail goes, and what the sandbox calls its accounts."""

from __future__ import annotations

from pathlib import Path

from holdfast.sandbox.azurite import ACCOUNT as AZURE_ACCOUNT

#: moto's account.
AWS_ACCOUNT = "123456789012"
AWS_TRAIL = "holdfast-sandbox"
AZURE_RESOURCE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/holdfast-sandbox"
    f"/providers/Microsoft.Storage/storageAccounts/{AZURE_ACCOUNT}/blobServices/default"
)
#: Category of the resource logs, and the container Azure delivers it to.
AZURE_CONTAINERS = {
    "StorageRead": "insights-logs-storageread",
    "StorageWrite": "insights-logs-storagewrite",
    "StorageDelete": "insights-logs-storagedelete",
}
#: In every event: this was an emulated cloud, and the trail is the sandbox's.
MARK = "holdfastSandbox"


def trail_buckets(cloud: str, bucket: str) -> tuple[str, ...]:
    """Buckets or containers of a site's trail, beside the site's own."""
    if cloud == "aws":
        return (f"{bucket}-trail",)
    return (f"{bucket}-logs",) if cloud == "gcp" else tuple(AZURE_CONTAINERS.values())


def trails_folder(state: Path) -> Path:
    """Records, what was delivered of them, and the key of the digests."""
    return state / "trails"


def public_keys_file(state: Path) -> Path:
    """The public key of the digests, in the form of the answer of CloudTrail's ListPublicKeys."""
    return trails_folder(state) / "aws-public-keys.json"
