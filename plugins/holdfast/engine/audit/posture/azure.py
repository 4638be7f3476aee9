"""The posture of Azure: a site's container, the subscription behind it, the identity that looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

import httpx

from holdfast.clock import Clock
from holdfast.engine.audit.posture import checks
from holdfast.engine.audit.posture.azure_api import AUTHORIZATION, STORAGE, AzureApi
from holdfast.engine.audit.posture.azure_container import AzureContainer, lacking
from holdfast.engine.audit.posture.interface import (
    Ask,
    CannotTell,
    Judgement,
    Place,
    Resource,
    Subject,
    Thresholds,
    failed,
    passed,
)
from holdfast.engine.audit.posture.privileges import Grant, azure_actions, judged
from holdfast.engine.config import Connection

_ADMINISTRATIVE = ("Administrative", "Security", "Policy")


class AzurePosture:
    """See `Leaf`.

    Args:
        connection, clock, transport: as in `AzureApi`.
        thresholds: what counts as stale.
        role: the published role that the identity is meant to have.
    """

    def __init__(
        self,
        connection: Connection,
        thresholds: Thresholds,
        clock: Clock,
        *,
        role: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection, self._thresholds, self._clock, self._role = connection, thresholds, clock, role
        self._api = AzureApi(connection, clock, transport=transport)
        self._containers: list[AzureContainer] = []

    @property
    def asked_at(self) -> str | None:
        return self._api.asked_at

    def bucket(self, place: Place) -> Subject:
        container = AzureContainer(self._api, place, self._thresholds)
        self._containers.append(container)
        bare = Resource("azure", "container", f"{self._connection.conn_id}/{place.site.bucket}", place.site.region)

        def resource() -> Resource:
            account = container.account["id"]
            uid = f"{account}/blobServices/default/containers/{place.site.bucket}"
            return Resource("azure", "container", uid, place.site.region, _subscription(account))

        return Subject(resource, container.asks(), bare)

    def accounts(self) -> list[Subject]:
        name = f"connection {self._connection.conn_id}"

        def subscription() -> Resource:
            found = self._subscription_id()
            return Resource("azure", "subscription", f"/subscriptions/{found}", account=found)

        def identity() -> Resource:
            return Resource("azure", "identity", self._api.principal, account=self._subscription_id())

        of_subscription: Mapping[str, Ask] = {
            checks.MFA.check_id: self._mfa,
            checks.STALE_CREDENTIALS.check_id: self._stale_credentials,
            checks.AUDIT_TRAIL.check_id: self._trail,
            checks.AUDIT_TRAIL_PROTECTED.check_id: self._trail_protected,
        }
        of_identity: Mapping[str, Ask] = {checks.LEAST_PRIVILEGE.check_id: self._least_privilege}
        return [
            Subject(subscription, of_subscription, Resource("azure", "subscription", name)),
            Subject(identity, of_identity, Resource("azure", "identity", name)),
        ]

    def _account(self) -> dict[str, Any]:
        """The storage account of the connection's first site. Raises CannotTell."""
        return self._containers[0].account

    def _subscription_id(self) -> str:
        return _subscription(self._account()["id"])

    def _mfa(self) -> Judgement:
        expected = "every user of the tenant has registered a second factor"
        users = self._api.graph_pages("/v1.0/reports/authenticationMethods/userRegistrationDetails")
        if not users:
            raise CannotTell("the report lists no user", where="Graph: userRegistrationDetails")
        without = [str(user.get("userPrincipalName")) for user in users if user.get("isMfaRegistered") is not True]
        if without:
            shown = f"{len(without)} of {len(users)} have not, the first: {', '.join(without[:3])}"
            return failed(expected, shown, "Require it by Conditional Access", without=without)
        return passed(expected, f"all of {len(users)}", users=len(users))

    def _stale_credentials(self) -> Judgement:
        age = self._thresholds.age
        expected = f"no account key in use older than {age.days} days, no such secret of Holdfast's application"
        accounts = {container.account["id"]: container.account for container in self._containers}
        stale = [
            *(one for account in accounts.values() for one in self._old_account_keys(account)),
            *self._old_secrets(),
        ]
        facts = {"accounts": list(accounts), "application": self._api.application, "stale": stale}
        if stale:
            return failed(
                expected, "; ".join(stale), "Renew them, or forbid account keys (allowSharedKeyAccess)", **facts
            )
        return passed(expected, "none", **facts)

    def _old_account_keys(self, account: Mapping[str, Any]) -> Iterator[str]:
        properties = account["properties"]
        if properties.get("allowSharedKeyAccess") is False:
            return
        made = properties.get("keyCreationTime") or {}
        for name in ("key1", "key2"):
            if not made.get(name):
                raise CannotTell("the account does not say when its keys were made", where=account["id"])
            moment = datetime.fromisoformat(made[name])
            if self._clock.now() - moment > self._thresholds.age:
                yield f"{name} of {account['name']}: made {moment:%Y-%m-%d}"

    def _old_secrets(self) -> Iterator[str]:
        client_id = self._api.application
        if client_id is None:
            return
        found = self._api.graph_pages("/v1.0/applications", **{"$filter": f"appId eq '{_quoted(client_id)}'"})
        if not found:
            raise CannotTell("the directory does not show Holdfast's application", where=f"application {client_id}")
        for application in found:
            for one in (*(application.get("passwordCredentials") or ()), *(application.get("keyCredentials") or ())):
                made, ends = datetime.fromisoformat(one["startDateTime"]), datetime.fromisoformat(one["endDateTime"])
                if ends < self._clock.now():
                    yield f"credential {one.get('keyId')} of {client_id}: expired {ends:%Y-%m-%d}, still listed"
                elif self._clock.now() - made > self._thresholds.age:
                    yield f"credential {one.get('keyId')} of {client_id}: made {made:%Y-%m-%d}"

    def _least_privilege(self) -> Judgement:
        principal = self._api.principal
        grants = []
        seen: set[str] = set()
        for container in self._containers:
            path = f"{container.account['id']}/providers/Microsoft.Authorization/roleAssignments"
            for one in self._api.arm_pages(path, AUTHORIZATION, **{"$filter": f"assignedTo('{_quoted(principal)}')"}):
                if one["id"] in seen:
                    continue
                seen.add(one["id"])
                given = one["properties"]
                role = self._api.arm(given["roleDefinitionId"], AUTHORIZATION)["properties"]
                source = f"{role.get('roleName')} on {given.get('scope')}"
                grants.append(Grant(source, tuple(azure_actions(role))))
        return judged("azure", principal, grants, self._role)

    @cached_property
    def _settings(self) -> list[Any]:
        return self._api.diagnostic_settings(f"/subscriptions/{self._subscription_id()}")

    def _trail(self) -> Judgement:
        expected = f"a diagnostic setting of the subscription with {', '.join(_ADMINISTRATIVE)}"
        settings = self._settings
        for setting in settings:
            if not lacking(setting, _ADMINISTRATIVE):
                return passed(expected, str(setting.get("name")), settings=len(settings))
        fix = "az monitor diagnostic-settings subscription create … (the Activity Log itself keeps 90 days)"
        return failed(expected, f"none of {len(settings)} settings has all", fix, settings=len(settings))

    def _trail_protected(self) -> Judgement:
        expected = "every storage account that activity logs go to forbids public access and keeps versions"
        settings = self._settings
        targets = sorted(
            {one["properties"]["storageAccountId"] for one in settings if one["properties"].get("storageAccountId")}
        )
        if not targets:
            return failed(expected, "no setting delivers to a storage account", "Make one: see audit-trail")
        poor = {target: lacks for target in targets if (lacks := self._lacks(target))}
        if poor:
            said = "; ".join(f"{target}: {', '.join(lacks)}" for target, lacks in poor.items())
            return failed(expected, said, "Set these, and immutability with protected appends", accounts=poor)
        return passed(expected, ", ".join(targets), accounts=targets)

    def _lacks(self, account: str) -> list[str]:
        lacks = []
        if self._api.arm(account, STORAGE)["properties"].get("allowBlobPublicAccess") is not False:
            lacks.append("public access is allowed")
        service = self._api.arm(f"{account}/blobServices/default", STORAGE)["properties"]
        if service.get("isVersioningEnabled") is not True:
            lacks.append("no versions are kept")
        return lacks


def _quoted(text: str) -> str:
    """Inside an OData string."""
    return text.replace("'", "''")


def _subscription(account_id: str) -> str:
    return account_id.split("/")[2]
