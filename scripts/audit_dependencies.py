"""``make audit-dependencies``: known vulnerabilities of what is locked, and for how many packages nothing is known.

pip-audit skips a package that its source of vulnerabilities does not answer for, says "No known vulnerabilities found"
and ends with 0, even when that is every package. Exit codes here: 0 every package was looked up and none has a known
vulnerability, 1 it could not run, 6 some have, 7 none has but some could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "runtime.lock"
_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What pip-audit's document says.

    Args:
        packages: in the lock.
        skipped: package → why nothing is known of it.
        vulnerable: package and version → ids of vulnerabilities, with the versions that fix them.
    """

    packages: int
    skipped: dict[str, str]
    vulnerable: dict[str, list[str]]

    @property
    def exit_code(self) -> int:
        if self.vulnerable:
            return 6
        return 7 if self.skipped or not self.packages else 0


def read(document: dict[str, Any]) -> Outcome:
    """Of ``pip-audit --format json``. Raises KeyError for another form."""
    found = document["dependencies"]
    return Outcome(
        len(found),
        {one["name"]: one["skip_reason"] for one in found if "skip_reason" in one},
        {
            f"{one['name']} {one['version']}": [
                f"{bug['id']} (fixed in {', '.join(bug['fix_versions']) or 'no version'})" for bug in one["vulns"]
            ]
            for one in found
            if one.get("vulns")
        },
    )


def main(lock: Path = LOCK) -> int:
    """Ask, print, and return the exit code."""
    command = ["-m", "pip_audit", "-r", str(lock), "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=ROOT
    )
    try:
        outcome = read(json.loads(done.stdout))
    except (ValueError, KeyError):
        print(f"pip-audit did not answer: {(done.stderr.splitlines() or ['nothing'])[-1]}")
        return 1
    for package, bugs in sorted(outcome.vulnerable.items()):
        print(f"{package}: {', '.join(bugs)}")
    known = outcome.packages - len(outcome.skipped)
    vulnerable = f"{len(outcome.vulnerable)} with a known vulnerability"
    print(f"{lock.name}: {outcome.packages} packages, {known} looked up, {vulnerable}")
    if outcome.skipped:
        name, why = next(iter(sorted(outcome.skipped.items())))
        print(f"Nothing is known of {len(outcome.skipped)}, the first: {name}: {why}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
