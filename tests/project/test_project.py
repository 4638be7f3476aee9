"""What must hold for the repository itself: locks, compose file, layers, generated docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "requirements").glob("*.lock")))
def test_a_lock_pins_every_package_with_a_hash_and_names_no_host(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    packages = re.findall(r"^([A-Za-z0-9_.\[\]-]+)==[^\n]*?\\?\n((?:    --hash=[^\n]*\n)*)", text + "\n", re.MULTILINE)
    assert packages
    assert [name for name, hashes in packages if not hashes] == []


def test_the_npm_lock_names_no_download_host() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [
        name for name, entry in packages.items() if name and not entry.get("link") and "integrity" not in entry
    ] == []


def test_the_compose_file_is_valid_against_the_compose_schema() -> None:
    done = run(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yaml"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_has_a_worker_queue_for_every_site() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    queues = {service["command"][-1] for name, service in services.items() if name.startswith("worker-")}
    topology = yaml.safe_load((ROOT / "include" / "holdfast.yaml").read_text())
    assert queues == {"default", *(site["compute"]["queue"] for site in topology["sites"].values())}


def test_the_layers_hold() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache")
    assert done.returncode == 0, done.stdout


def test_the_generated_docs_are_up_to_date_and_links_lead_somewhere() -> None:
    done = run(sys.executable, "scripts/docs.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_help_lists_the_commands_a_newcomer_needs() -> None:
    listed = run("make", "help").stdout
    assert all(f"make {target} " in listed for target in ("demo", "test", "test-slow", "lint", "bench", "docs", "help"))


def test_no_file_names_a_path_of_one_machine() -> None:
    tracked = run("git", "ls-files").stdout.split()
    home = re.compile(r"(?<![\w.])/(?:root|home/\w+|work)/")
    found = [
        name
        for name in tracked
        if (path := ROOT / name).is_file()
        and path.suffix in {".py", ".md", ".yaml", ".toml", ".json", ""}
        and name != "package-lock.json"
        and home.search(path.read_text(encoding="utf-8", errors="ignore").replace("/home/airflow/", ""))
        and name != "tests/project/test_project.py"
    ]
    assert found == []


def test_changelog_fragments_are_named_as_contributing_says() -> None:
    (kinds,) = re.findall(r"with kind one of ((?:`\w+`(?:, )?)+)", (ROOT / "CONTRIBUTING.md").read_text())
    named = re.compile(f"({'|'.join(re.findall(r'`(.+?)`', kinds))})-[a-z0-9-]+")
    fragments = sorted((ROOT / "changelog" / "unreleased").iterdir())
    assert fragments
    assert [file.name for file in fragments if file.suffix != ".md" or not named.fullmatch(file.stem)] == []
    texts = {file.name: file.read_text().splitlines() for file in fragments}
    assert [name for name, lines in texts.items() if not lines[0] or any(lines[1:2])] == []
