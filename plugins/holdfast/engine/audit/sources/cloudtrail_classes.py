"""Which OCSF class and activity an AWS event is: by the service and the verb its name begins with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from holdfast.engine.audit.ocsf.schema import API_ACTIVITY, AUTHENTICATION, DATASTORE_ACTIVITY, ENTITY_MANAGEMENT

UNKNOWN, OTHER = 0, 99
_CREATE, _READ, _UPDATE, _DELETE = 1, 2, 3, 4
_VERB = re.compile(r"[A-Z]?[a-z0-9]+")

#: The same four numbers mean the same in API Activity and in Entity Management.
_BY_VERB = {
    verb: activity
    for activity, verbs in {
        _CREATE: "Accept Add Allocate Copy Create Generate Import Initialize Invite Issue Launch Publish Purchase "
        "Register Request Run Upload",
        _READ: "Check Count Decode Describe Detect Discover Download Estimate Export Filter Get Head List Lookup "
        "Preview Query Read Receive Retrieve Scan Search Select Simulate Test Validate Verify View",
        _UPDATE: "Apply Associate Assign Attach Cancel Change Complete Configure Deactivate Detach Disable "
        "Disassociate Enable Extend Merge Modify Move Pause Put Rebuild Reboot Refresh Rename Renew Replace Reset "
        "Restore Resume Rotate Send Set Start Stop Suspend Swap Switch Sync Tag Transfer Unassign Untag Update "
        "Upgrade Write",
        _DELETE: "Abort Delete Deprovision Deregister Destroy Purge Reject Release Remove Revoke Terminate",
    }.items()
    for verb in verbs.split()
}

_LOGON, _TICKET, _SWITCH = 1, 3, 7
_AUTHENTICATION = {
    ("signin.amazonaws.com", "ConsoleLogin"): _LOGON,
    ("signin.amazonaws.com", "UserAuthentication"): _LOGON,
    ("signin.amazonaws.com", "CheckMfa"): OTHER,
    ("signin.amazonaws.com", "SwitchRole"): _SWITCH,
    ("signin.amazonaws.com", "ExitRole"): _SWITCH,
    ("signin.amazonaws.com", "GetSigninToken"): _TICKET,
    ("sso.amazonaws.com", "Authenticate"): _LOGON,
    ("sso.amazonaws.com", "Federate"): _TICKET,
    ("sts.amazonaws.com", "GetSessionToken"): _TICKET,
    ("sts.amazonaws.com", "GetFederationToken"): _TICKET,
}

_ENTITY_SERVICES = ("iam.amazonaws.com", "identitystore.amazonaws.com")
_ENTITY_VERBS = {"Enable": 8, "Disable": 9, "Activate": 10, "Deactivate": 11}

_STORE_READ, _STORE_UPDATE, _STORE_WRITE, _STORE_DELETE, _STORE_LIST = 1, 2, 5, 7, 8
_STORE_VERBS = {
    "Abort": _STORE_DELETE,
    "Copy": _STORE_WRITE,
    "Complete": _STORE_WRITE,
    "Create": _STORE_WRITE,
    "Delete": _STORE_DELETE,
    "Get": _STORE_READ,
    "Head": _STORE_READ,
    "List": _STORE_LIST,
    "Put": _STORE_WRITE,
    "Restore": _STORE_UPDATE,
    "Select": _STORE_READ,
    "Upload": _STORE_WRITE,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What an event is.

    Args:
        entity: Entity Management: of what kind, e.g. ``User``.
    """

    class_uid: int
    activity_id: int
    entity: str | None = None


@lru_cache(maxsize=65536)
def kind_of(source: str, name: str, *, is_data: bool, is_read: bool | None) -> Kind:
    """The class and activity of an event.

    Args:
        source: ``eventSource``.
        name: ``eventName``.
        is_data: it is a data event (what is done in a resource), no management event.
        is_read: ``readOnly``, which counts where the verb is not known.
    """
    if (source, name) in _AUTHENTICATION:
        return Kind(AUTHENTICATION, _AUTHENTICATION[source, name])
    if source == "sts.amazonaws.com" and name.startswith("AssumeRole"):
        return Kind(AUTHENTICATION, _TICKET)
    verb = _first_word(name)
    if is_data and source == "s3.amazonaws.com":
        return Kind(DATASTORE_ACTIVITY, _STORE_VERBS.get(verb, OTHER))
    activity = _BY_VERB.get(verb, _READ if is_read else OTHER)
    if source in _ENTITY_SERVICES and activity != _READ and not is_read:
        return Kind(ENTITY_MANAGEMENT, _ENTITY_VERBS.get(verb, activity), _entity(name))
    return Kind(API_ACTIVITY, activity)


def _first_word(name: str) -> str:
    words = _VERB.findall(name)
    if words and words[0] in ("Batch", "Admin", "Bulk") and len(words) > 1:
        return str(words[1])
    return str(words[0]) if words else ""


def _entity(name: str) -> str:
    """What a name of IAM is about: ``AttachRolePolicy`` changes a role, ``CreateAccessKey`` makes a key."""
    for word in ("AccessKey", "LoginProfile", "MFADevice", "InstanceProfile", "Role", "Group", "User", "Policy"):
        if word in name:
            return word
    return "Account" if "Account" in name else "Entity"
