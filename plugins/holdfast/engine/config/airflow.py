"""Airflow's own state: what it must meet, and how its database is recovered to a point in time."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from holdfast.engine.config.base import Model, Name, RelativePath

_OPTION = re.compile(r"^[a-z][a-z0-9-]*[a-z0-9]$")
#: pgBackRest's options that hold a secret, or that Holdfast writes itself.
_NOT_AN_OPTION = re.compile(
    r"^repo\d*-(.*key.*|.*token.*|cipher-.*|path|type|.*-bucket|.*-container|.*-account|retention-full)$"
)


def _absolute(value: str) -> str:
    if not PurePosixPath(value).is_absolute() or "\n" in value:
        raise ValueError(f"expected an absolute path; found {value!r}")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class PointInTimeRecovery(Model):
    """Airflow's PostgreSQL cluster at any moment since a base backup, by pgBackRest on the cluster's own machine."""

    site: Name = Field(description="Where the repository lies; choose another cloud than the cluster's.")
    prefix: RelativePath = Field("airflow-recovery", description="Folder in the site's bucket, nobody else's.")
    connection: str | None = Field(
        None,
        description="Whose keys pgBackRest gets, which must not expire; none: the site's. They need that folder only.",
    )
    passphrase: str = Field(
        pattern=r"^(file|env):.+$",
        description="Encrypts the repository: `file:/path` or `env:NAME`. Without it the repository is noise.",
    )
    data_folder: AbsolutePath = Field(description="The cluster's data folder.")
    port: int = Field(5432, ge=1, le=65535)
    socket_folder: AbsolutePath | None = Field(None, description="Where its socket lies; none: PostgreSQL's default.")
    superuser: str = Field("postgres", min_length=1, description="A superuser of the cluster, who may log in there.")
    database: str = Field("airflow", min_length=1, description="Airflow's, in the cluster.")
    system_user: str | None = Field(
        None, description="Who pgBackRest runs as when the command is run by root; none: the data folder's owner."
    )
    stanza: Name = Field("airflow", description="What the cluster is called in the repository.")
    config_file: AbsolutePath = Field(
        "/etc/pgbackrest/holdfast-airflow.conf", description="Written by `vault pitr configure`; it holds the keys."
    )
    work_folder: AbsolutePath = Field("/var/lib/pgbackrest/holdfast-airflow", description="Its locks and queue.")
    keep_full: int = Field(2, ge=1, description="Full backups that stay, and the log since the oldest of them.")
    full_every_days: float = Field(7.0, gt=0, description="A base backup is full this often, else incremental.")
    options: dict[str, str] = Field(
        default_factory=dict, description="Further options of pgBackRest's, e.g. `repo1-storage-ca-file`. No secrets."
    )
    queue: str | None = Field(
        None, min_length=1, description="Airflow queue of the worker beside the cluster; none: the default queue."
    )

    @model_validator(mode="after")
    def _has_plain_options(self) -> Self:
        for name, value in self.options.items():
            if not _OPTION.match(name) or _NOT_AN_OPTION.match(name):
                raise ValueError(f"expected in `options` what Holdfast does not write itself, no secret; found {name}")
            if name == "recovery-option" and "password" in value:
                raise ValueError("expected no password in `options`; found one in recovery-option, use a password file")
            if not value or "\n" in value:
                raise ValueError(f"expected one line for the option {name}")
        return self


class Airflow(Model):
    """Airflow's own state. Who opens its keys is said by each vault (`airflow_escrow`)."""

    rpo_seconds: float | None = Field(
        None, gt=0, description="How old a restored database may be; none: the vault's `rpo_hours`, of a dump."
    )
    rto_seconds: float | None = Field(
        None, gt=0, description="How long until a scheduler runs a DAG again; none: measured, not judged."
    )
    recovery: PointInTimeRecovery | None = Field(None, description="None: dumps in the vaults only.")
