"""Point-in-time recovery of the metadata database by pgBackRest, with its repository at another site.

A dump is of one moment; a base backup and the archived log reach any moment since. pgBackRest does the work, here is
what it is told: one configuration file, readable by its user alone, and argument lists without a secret.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from holdfast.engine.vault.airflow_state.children import run
from holdfast.engine.vault.errors import CommandFailed, MissingProgram
from holdfast.errors import ConfigError

BackupType = Literal["full", "diff", "incr"]


@dataclass(frozen=True)
class Repository:
    """Where backups and the archived log lie.

    Args:
        options: pgBackRest's, without their ``repo1-``.
        secrets: options that are secret.
    """

    options: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def posix(cls, path: Path) -> Repository:
        """A folder, e.g. of a mounted file system."""
        return cls({"type": "posix", "path": str(path)})

    @classmethod
    def s3(
        cls, bucket: str, region: str, *, path: str = "/pgbackrest", key: str = "", secret: str = "", endpoint: str = ""
    ) -> Repository:
        """A bucket of S3. Without a key, the machine's or pod's own role is used."""
        options = {
            "type": "s3",
            "path": path,
            "s3-bucket": bucket,
            "s3-region": region,
            "s3-endpoint": endpoint or f"s3.{region}.amazonaws.com",
            "s3-key-type": "shared" if key else "auto",
        }
        return cls(options, {"s3-key": key, "s3-key-secret": secret} if key else {})

    @classmethod
    def gcs(cls, bucket: str, *, path: str = "/pgbackrest", key_file: Path | None = None) -> Repository:
        """A bucket of Cloud Storage. Without a service account's key file, the machine's own account is used."""
        options = {"type": "gcs", "path": path, "gcs-bucket": bucket}
        if key_file is None:
            return cls({**options, "gcs-key-type": "auto"})
        return cls({**options, "gcs-key-type": "service", "gcs-key": str(key_file)})

    @classmethod
    def azure(
        cls, account: str, container: str, key: str, *, path: str = "/pgbackrest", is_sas: bool = False
    ) -> Repository:
        """A container of Blob Storage, with the account's key or a shared access signature."""
        options = {
            "type": "azure",
            "path": path,
            "azure-account": account,
            "azure-container": container,
            "azure-key-type": "sas" if is_sas else "shared",
        }
        return cls(options, {"azure-key": key})

    def encrypted(self, passphrase: str) -> Repository:
        """The same, where pgBackRest encrypts everything before it leaves (AES-256-CBC)."""
        return replace(
            self,
            options={**self.options, "cipher-type": "aes-256-cbc"},
            secrets={**self.secrets, "cipher-pass": passphrase},
        )

    def having(self, **options: str) -> Repository:
        """With further options, e.g. ``storage_ca_file``; underscores stand for dashes."""
        return replace(
            self, options={**self.options, **{name.replace("_", "-"): value for name, value in options.items()}}
        )


@dataclass(frozen=True)
class Cluster:
    """The cluster that is backed up, on the machine that pgBackRest runs on.

    Args:
        data: its data folder.
        port, socket_folder, user: how pgBackRest connects to it.
    """

    data: Path
    port: int = 5432
    socket_folder: Path | None = None
    user: str = "postgres"


@dataclass(frozen=True)
class PgBackRest:
    """pgBackRest for one cluster.

    Args:
        stanza: what the cluster is called in the repository.
        config: its configuration file; see `write_config`.
        program: `pgbackrest`; the one on the ``PATH`` by default.
        user: the system user it runs as, by default oneself; the one that owns the cluster.
        timeout_seconds: for one backup or restore.
    """

    stanza: str
    config: Path
    program: Path | None = None
    user: str | None = None
    timeout_seconds: float = 12 * 3600.0

    def require(self) -> None:
        """Raises MissingProgram: pgBackRest is not installed."""
        self._program()

    def write_config(
        self,
        repository: Repository,
        cluster: Cluster | None,
        *,
        work: Path,
        keep_full: int = 2,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Write the configuration file, for its user alone.

        Args:
            cluster: ``None`` on a machine that only restores.
            work: a folder for its logs, locks and queue, which the user may write.
            keep_full: full backups to keep, with the log since the oldest of them.
            options: further ones, of the section ``global``.

        Raises:
            ConfigError: a value does not fit on its line.
        """
        said = {
            **{f"repo1-{name}": value for name, value in {**repository.options, **repository.secrets}.items()},
            "repo1-retention-full": str(keep_full),
            "log-path": str(work),
            "log-level-file": "off",
            "log-level-console": "off",
            "log-level-stderr": "warn",
            "lock-path": str(work / "lock"),
            "spool-path": str(work),
            "start-fast": "y",
            **(options or {}),
        }
        own = (
            {}
            if cluster is None
            else {"pg1-path": str(cluster.data), "pg1-port": str(cluster.port), "pg1-user": cluster.user}
        )
        if cluster is not None and cluster.socket_folder is not None:
            own["pg1-socket-path"] = str(cluster.socket_folder)
        lines = ["[global]", *_lines(said), "", f"[{self.stanza}]", *_lines(own), ""]
        self.write_private(self.config, "\n".join(lines))

    def write_private(self, file: Path, text: str) -> None:
        """Write a file for pgBackRest's user alone, all of it or nothing."""
        draft = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            if self.user is not None:
                shutil.chown(draft, self.user)
            draft.replace(file)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    @property
    def archive_command(self) -> str:
        """What the cluster's ``archive_command`` has to be; ``archive_mode`` has to be on."""
        return f"{self._program()} --config={self.config} --stanza={self.stanza} archive-push %p"

    def create(self) -> None:
        """Make the stanza in the repository; where it is, nothing happens. Raises CommandFailed, MissingProgram."""
        self._run("stanza-create", timeout_seconds=300)

    def check(self) -> None:
        """Archive a piece of log now and wait until it is in the repository. Raises CommandFailed."""
        self._run("check", timeout_seconds=300)

    def back_up(self, kind: BackupType = "incr") -> BackRestBackup:
        """Make a base backup; what was to be kept only so long is removed. Raises CommandFailed."""
        self._run("backup", f"--type={kind}")
        return self.newest()

    def backups(self) -> list[BackRestBackup]:
        """What the repository has, oldest first. Raises CommandFailed."""
        return [BackRestBackup.of(one) for one in self._info()["backup"]]

    def newest_log(self) -> str | None:
        """The newest piece of log in the repository, ``None``: there is none. Raises CommandFailed."""
        archived = [one["max"] for one in self._info()["archive"] if one.get("max")]
        return str(archived[-1]) if archived else None

    def _info(self) -> Mapping[str, Any]:
        told = self._run("info", "--output=json", timeout_seconds=300).decode(errors="replace")
        try:
            stanza = next((one for one in json.loads(told, strict=False) if one["name"] == self.stanza), None)
        except (ValueError, KeyError, TypeError):
            stanza = {"repo": [{"status": {"message": "an answer that cannot be read"}}]}
        if stanza is None or not stanza.get("db"):
            repositories = [str(one["status"]["message"]) for one in (stanza or {}).get("repo", ())]
            raise CommandFailed(
                "the repository does not have this cluster, or cannot be read",
                where=self.stanza,
                expected="a stanza with backups",
                found="; ".join(repositories)[:1000] or "none",
                fix="Check where it lies and its passphrase; a new one is made with `stanza-create`",
            )
        found: Mapping[str, Any] = stanza
        return found

    def newest(self) -> BackRestBackup:
        """Raises CommandFailed: there is none."""
        backups = self.backups()
        if not backups:
            raise CommandFailed(
                "there is no base backup", where=self.stanza, expected="one", found="none", fix="Make a full one"
            )
        return backups[-1]

    def restore(self, folder: Path, *, at: datetime | None = None) -> None:
        """Restore the cluster into an empty folder; its server replays the log when it is started, up to the moment
        given, and then takes changes. Nothing is archived from there.

        Args:
            folder: owned by the user that runs the server.
            at: timezone-aware; ``None``: as far as the log goes.

        Raises:
            CommandFailed: the repository, or the folder is not empty.
        """
        arguments = [f"--pg1-path={folder}", "--archive-mode=off", f"--tablespace-map-all={folder}-tablespaces"]
        if at is not None:
            if at.tzinfo is None:
                raise ConfigError("the moment has no time zone", where="at", expected="one", found=at.isoformat())
            moment = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
            arguments += ["--type=time", f"--target={moment}", "--target-action=promote"]
        self._run("restore", *arguments)

    def _run(self, command: str, *arguments: str, timeout_seconds: float | None = None) -> bytes:
        return run(
            [self._program(), f"--config={self.config}", f"--stanza={self.stanza}", *arguments, command],
            {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            timeout_seconds=timeout_seconds or self.timeout_seconds,
            user=self.user,
            folder=Path("/"),
        )

    def _program(self) -> Path:
        found = self.program or Path(shutil.which("pgbackrest") or "")
        if not found.is_file():
            raise MissingProgram(
                "pgBackRest is not installed",
                where=str(self.program or "PATH"),
                expected="pgbackrest",
                found="nothing",
                fix="Install it where the cluster runs (Debian: apt-get install pgbackrest)",
            )
        return found


@dataclass(frozen=True)
class BackRestBackup:
    """A base backup in the repository.

    Args:
        stopped_at: when it was complete; any moment from the next second on can be reached.
    """

    label: str
    kind: str
    stopped_at: datetime
    size_bytes: int
    stored_bytes: int

    def reaches(self, moment: datetime) -> bool:
        """Whether the log goes on from here to that moment; pgBackRest tells moments apart by the second."""
        return self.stopped_at < moment.replace(microsecond=0)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> BackRestBackup:
        info = found["info"]
        return cls(
            str(found["label"]),
            str(found["type"]),
            datetime.fromtimestamp(int(found["timestamp"]["stop"]), UTC),
            int(info["size"]),
            int(info["repository"]["delta"]),
        )


def base_for(backups: Sequence[BackRestBackup], at: datetime | None, stanza: str) -> BackRestBackup:
    """The newest base backup from which the log goes on to a moment. Raises CommandFailed: there is none."""
    usable = [one for one in backups if at is None or one.reaches(at)]
    if not usable:
        raise CommandFailed(
            "no base backup was complete by then",
            where=stanza,
            expected="one from before " + ("now" if at is None else at.isoformat()),
            found=f"{len(backups)}, the oldest of {backups[0].stopped_at.isoformat()}" if backups else "none",
        )
    return usable[-1]


def _lines(options: Mapping[str, str]) -> list[str]:
    for name, value in options.items():
        if not value or value != value.strip() or "\n" in value:
            raise ConfigError(
                "a value cannot stand in pgBackRest's configuration",
                where=name,
                expected="one line, not empty, without blanks around it",
                found="something else",
            )
    return [f"{name}={value}" for name, value in options.items()]
