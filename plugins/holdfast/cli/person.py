"""Who is at the command line."""

from __future__ import annotations

import os
import pwd


def account() -> str:
    """The account this process runs under, by the system's own list: ``USER`` and ``LOGNAME`` may say anything."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
