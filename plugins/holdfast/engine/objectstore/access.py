"""How a site's store is reached: endpoint, options and credentials that renew themselves, whatever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Credentials:
    """What authorises requests until ``expires_at`` (timezone-aware; ``None``: does not expire).

    ``values`` holds one of: ``access_key_id, secret_access_key, token`` (AWS); ``token`` (Google Cloud);
    ``access_key``, ``sas_token`` or ``token`` (Azure).
    """

    values: Mapping[str, str | None] = field(repr=False)
    expires_at: datetime | None = None


#: Gives credentials that are valid now. Called at the first request and again shortly before they expire.
CredentialProvider = Callable[[], Credentials]


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """How one site's store is reached.

    Args:
        endpoint: base URL of the service; ``None``: the cloud's own.
        options: obstore's settings of the cloud, e.g. ``region`` or ``account_name``.
        credentials: where credentials come from; ``None``: the environment's own (workload identity, instance role,
            variables), as obstore finds them.
        anonymous: send no credentials at all.
    """

    endpoint: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: CredentialProvider | None = field(default=None, repr=False)
    anonymous: bool = False


def fixed(**values: str | None) -> CredentialProvider:
    """A provider of credentials that never change."""
    credentials = Credentials({name: value for name, value in values.items() if value is not None})
    return lambda: credentials
