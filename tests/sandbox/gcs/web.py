"""One HTTP client for these tests: a new one per call would spend 70 ms on reading certificates nobody needs here."""

from __future__ import annotations

import httpx

HTTP = httpx.Client(verify=False, timeout=60)
