"""Where CloudTrail puts what it delivers, and what the names of its files say.

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-examples.html and
…/cloudtrail-log-file-validation-digest-file-structure.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from holdfast.engine.audit.interface import Interval

HOUR = timedelta(hours=1)
#: Folders with events; digests name the files of both.
EVENT_FOLDERS = ("CloudTrail", "CloudTrail-Insight")

_DELIVERED = re.compile(r"_([0-9]{8}T[0-9]{4})Z_[^/]*$")
_DIGEST_END = re.compile(r"_([0-9]{8}T[0-9]{6})Z(_backfill)?\.json\.gz$")


@dataclass(frozen=True, slots=True)
class TrailLayout:
    """Keys of one trail of one account.

    Args:
        prefix: before ``AWSLogs`` in the bucket, without slashes around; empty for none.
        organization: id of the organisation (``o-…``) of an organisation's trail.
    """

    account: str
    trail: str
    home_region: str
    organization: str | None = None
    prefix: str = ""

    def full(self, key: str) -> str:
        """The key in the bucket of a key below the prefix."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def relative(self, key: str) -> str:
        """The key below the prefix of a key in the bucket."""
        return key.removeprefix(f"{self.prefix}/") if self.prefix else key

    def logs_of(self, folder: str, region: str, hour: datetime) -> str:
        """What all log files delivered in an hour begin with (`EVENT_FOLDERS` has the folders)."""
        return f"{self._folder(folder, region)}/{hour:%Y/%m/%d}/{self.account}_{folder}_{region}_{hour:%Y%m%dT%H}"

    def digests_of(self, region: str, day: datetime) -> str:
        """What all digests that end on a day begin with."""
        return f"{self._folder('CloudTrail-Digest', region)}/{day:%Y/%m/%d}/{self._digest_name(region)}"

    def digest(self, region: str, end: datetime) -> str:
        """The key of the digest that ends then."""
        return f"{self.digests_of(region, end)}{end:%Y%m%dT%H%M%SZ}.json.gz"

    def digests(self, region: str, end: datetime) -> tuple[str, str]:
        """The keys of the digest that ends then and of the one of late files; another trail's may begin alike."""
        key = self.digest(region, end)
        return key, key.replace(".json.gz", "_backfill.json.gz")

    def _folder(self, folder: str, region: str) -> str:
        organization = f"{self.organization}/" if self.organization else ""
        return f"AWSLogs/{organization}{self.account}/{folder}/{region}"

    def _digest_name(self, region: str) -> str:
        return f"{self.account}_CloudTrail-Digest_{region}_{self.trail}_{self.home_region}_"


def delivered_at(key: str) -> datetime | None:
    """The minute in which a log file was delivered, as its name says."""
    found = _DELIVERED.search(key)
    return _moment(found[1], "%Y%m%dT%H%M") if found else None


def digest_end(key: str) -> datetime | None:
    """The end of the time a digest speaks for, as its name says."""
    found = _DIGEST_END.search(key)
    return _moment(found[1], "%Y%m%dT%H%M%S") if found else None


def is_backfill(key: str) -> bool:
    """Whether a digest names log files that came too late for the digest of their hour."""
    found = _DIGEST_END.search(key)
    return found is not None and found[2] is not None


def moment(text: str) -> datetime:
    """A time as CloudTrail writes it in digests and events. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def hours_of(window: Interval) -> list[Interval]:
    """The full UTC hours that hold the window, one by one."""
    start = window.start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    found = []
    while start < window.end:
        found.append(Interval(start, start + HOUR))
        start += HOUR
    return found


def _moment(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
