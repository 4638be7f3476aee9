"""The checks, as data: what is asked of every cloud, and which controls it is evidence for.

The ids name where an auditor of that framework looks; whether a control is met is the auditor's to say.
"""

from __future__ import annotations

from holdfast.engine.audit.posture.interface import Check, Severity

_ISO, _SOC2, _DORA, _GLBA = "ISO 27001:2022", "SOC 2", "DORA", "GLBA 16 CFR 314"

ENCRYPTION = Check(
    "encryption-at-rest",
    "What lies in the bucket is encrypted, with the key the topology names",
    "Whoever gets hold of the disks, or of the bucket without the key, reads nothing.",
    Severity.HIGH,
    {_ISO: ("A.8.24",), _SOC2: ("CC6.1", "CC6.7"), _DORA: ("9",), "GDPR": ("32",), _GLBA: ("314.4(c)(3)",)},
)
ROTATION = Check(
    "key-rotation",
    "The bucket's key is in use and is rotated",
    "A key that leaked opens only what was written while it was the current one.",
    Severity.MEDIUM,
    {_ISO: ("A.8.24",), _SOC2: ("CC6.1",), _DORA: ("9",), "GDPR": ("32",)},
)
VERSIONING = Check(
    "versioning",
    "The bucket keeps older versions",
    "An overwrite or a delete by mistake, or by malice, can be undone.",
    Severity.MEDIUM,
    {_ISO: ("A.8.13",), _SOC2: ("A1.2", "CC7.5"), _DORA: ("12",)},
)
OBJECT_LOCK = Check(
    "object-lock",
    "The bucket can lock objects until a date",
    "Backups and sealed exports cannot be removed before their time, by nobody.",
    Severity.HIGH,
    {_ISO: ("A.5.28", "A.8.13"), _SOC2: ("A1.2",), _DORA: ("12",), "SEC 17a-4": ("(f)(2)(i)(B)",)},
)
PUBLIC_ACCESS = Check(
    "public-access",
    "Nobody reads the bucket without a login, and nobody can open it by mistake",
    "Buckets left open are how most data leaves a cloud.",
    Severity.CRITICAL,
    {_ISO: ("A.5.15", "A.8.3"), _SOC2: ("CC6.1", "CC6.6"), _DORA: ("9",), "GDPR": ("32",)},
)
TLS_ONLY = Check(
    "tls-only",
    "The bucket answers over TLS alone",
    "Nothing is read or changed on the way.",
    Severity.HIGH,
    {_ISO: ("A.8.24", "A.8.20"), _SOC2: ("CC6.7",), _DORA: ("9",), _GLBA: ("314.4(c)(3)",)},
)
DATA_ACCESS_LOGS = Check(
    "data-access-logs",
    "Who read and who wrote the bucket's objects is logged",
    "After an incident it can be told what was taken.",
    Severity.MEDIUM,
    {_ISO: ("A.8.15",), _SOC2: ("CC7.2",), _DORA: ("10", "17"), _GLBA: ("314.4(c)(8)",)},
)
MFA = Check(
    "mfa",
    "Everybody who logs in with a password has a second factor",
    "A password that was fished does not suffice.",
    Severity.CRITICAL,
    {_ISO: ("A.5.17", "A.8.5"), _SOC2: ("CC6.1",), _DORA: ("9",), _GLBA: ("314.4(c)(5)",)},
    of_site=False,
)
STALE_CREDENTIALS = Check(
    "stale-credentials",
    "No long-lived credential is unused or old",
    "Forgotten keys are found by others.",
    Severity.HIGH,
    {_ISO: ("A.5.18", "A.5.17"), _SOC2: ("CC6.2", "CC6.3"), _GLBA: ("314.4(c)(1)",)},
    of_site=False,
)
LEAST_PRIVILEGE = Check(
    "least-privilege",
    "Holdfast's own identity may do what the published policies list, and no more",
    "What this identity cannot do, nobody does who took it over.",
    Severity.HIGH,
    {_ISO: ("A.5.15", "A.8.2"), _SOC2: ("CC6.3",), _DORA: ("9",), _GLBA: ("314.4(c)(1)",)},
    of_site=False,
)
AUDIT_TRAIL = Check(
    "audit-trail",
    "What administrators do is recorded, everywhere, and leaves the place where it was recorded",
    "Without it nothing can be shown afterwards.",
    Severity.HIGH,
    {_ISO: ("A.8.15", "A.5.28"), _SOC2: ("CC7.2", "CC7.3"), _DORA: ("10", "17"), _GLBA: ("314.4(c)(8)",)},
    of_site=False,
)
AUDIT_TRAIL_PROTECTED = Check(
    "audit-trail-protected",
    "Where the record is delivered to, it is neither public nor quietly replaced",
    "Who breaks in removes the traces first.",
    Severity.HIGH,
    {_ISO: ("A.5.28", "A.8.15"), _SOC2: ("CC7.2",), _DORA: ("10",)},
    of_site=False,
)

#: In the order of reports.
CHECKS: tuple[Check, ...] = (
    ENCRYPTION,
    ROTATION,
    VERSIONING,
    OBJECT_LOCK,
    PUBLIC_ACCESS,
    TLS_ONLY,
    DATA_ACCESS_LOGS,
    MFA,
    STALE_CREDENTIALS,
    LEAST_PRIVILEGE,
    AUDIT_TRAIL,
    AUDIT_TRAIL_PROTECTED,
)
BY_ID = {check.check_id: check for check in CHECKS}
