"""`holdfast vault` over three sites in folders, as somebody types it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from folders import SITES, folder_runtime
from holdfast.cli.main import app
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.runtime import Runtime


@dataclass
class Vaults:
    """Three sites in folders with a vault, and the command over them."""

    topology: Path

    def here(self, monkeypatch: pytest.MonkeyPatch) -> Vaults:
        """The same, with every command of this process over them."""
        monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(self.topology))
        return self

    def put(self, name: str, data: bytes) -> None:
        file = self.topology.parent / SITES[0] / "data" / "prices" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        publish_dataset(folder_runtime(self.topology), "desk", "prices")

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["vault", *words])
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.output + done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)
