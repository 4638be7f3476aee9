"""A pod of the API stub: the container's command as a process of this machine, with the container's environment alone.

There is no image and no mount namespace: the working folder stands in for the image's, volumes are written to a folder
of the pod, and environment values that begin with a mount's path are made to point there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def expand(text: str, variables: dict[str, str]) -> str:
    """``$(NAME)`` as the kubelet puts variables in: unknown ones stay, ``$$`` is a dollar (third_party/expansion)."""

    def put(found: re.Match[str]) -> str:
        if found.group() == "$$":
            return "$"
        return variables.get(found.group(1), found.group())

    return _REFERENCE.sub(put, text)


class Process:
    """The container of a pod.

    Args:
        template: the pod's metadata and spec, as JSON.
        secrets: the namespace's Secrets: name → entries.
        image: the folder the command runs in.
        folder: the pod's own: volumes and log.
    """

    def __init__(
        self, template: dict[str, Any], secrets: dict[str, dict[str, str]], *, image: Path, folder: Path
    ) -> None:
        folder.mkdir(parents=True)
        container = template["spec"]["containers"][0]
        mounts = _volumes(template, container, folder)
        # What the image would have; the bare interpreter finds its packages by PATH alone.
        environ = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}"}
        if "PYTHONPATH" in os.environ:
            environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        for source in container.get("envFrom", []):
            environ |= secrets[source["secretRef"]["name"]]
        for variable in container.get("env", []):
            value = expand(variable["value"], environ)
            for path, real in mounts.items():
                value = f"{real}{value.removeprefix(path)}" if value.startswith(path) else value
            environ[variable["name"]] = value
        command = [expand(word, environ) for word in container["command"]]
        self.log_file = folder / "log"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=image,
                env=environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> int:
        """The exit code as a container runtime tells it: 128 + n for a signal."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def terminate(self, grace_seconds: float) -> None:
        """SIGTERM, after the grace SIGKILL to what lives; returns when it is gone."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def _volumes(template: dict[str, Any], container: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the downwardAPI volumes; mount path → folder."""
    items = {volume["name"]: volume["downwardAPI"]["items"] for volume in template["spec"].get("volumes", [])}
    mounts = {}
    for mount in container.get("volumeMounts", []):
        real = folder / mount["name"]
        real.mkdir()
        for item in items[mount["name"]]:
            key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
            (real / item["path"]).write_text(template["metadata"]["annotations"][key])
        mounts[mount["mountPath"]] = real
    return mounts
