"""The looks that ask a site directly: its object store, its service. Each tells what it saw and never raises."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from holdfast.clock import Clock
from holdfast.engine.health.interface import Observation, Signal
from holdfast.engine.objectstore.errors import NotSupported, ObjectNotFound, PermissionRefused
from holdfast.errors import HoldfastError

#: The vantage point of whoever runs the detector.
OUTSIDE = "outside"


class ObjectStoreProbe:
    """Asks a site's store for something small, with the credentials everything else uses.

    An object that is not there is an answer. Credentials that are refused say nothing about the site: ``ok`` is None.

    Args:
        read: the small read, e.g. a turn of `HeartbeatReader`.
    """

    signal = Signal.OBJECT_STORE

    def __init__(self, site: str, read: Callable[[], object], *, vantage: str = OUTSIDE, clock: Clock) -> None:
        self.site, self.vantage = site, vantage
        self._read, self._clock = read, clock

    def observe(self) -> Observation:
        began = self._clock.monotonic()
        ok: bool | None
        try:
            self._read()
            ok, detail = True, None
        except ObjectNotFound:
            ok, detail = True, None
        except (PermissionRefused, NotSupported) as error:
            ok, detail = None, str(error)
        except HoldfastError as error:
            ok, detail = False, str(error)
        return Observation(
            self.site, self.vantage, self.signal, ok, self._clock.now(), self._clock.monotonic() - began, detail
        )


class ServiceProbe:
    """Asks a site's service for ``/health``; anything but 200 is a failure."""

    signal = Signal.SERVICE

    def __init__(self, site: str, url: str, *, vantage: str = OUTSIDE, clock: Clock, timeout_seconds: float) -> None:
        self.site, self.vantage = site, vantage
        self._url = f"{url.rstrip('/')}/health"
        self._clock = clock
        # A fresh connection per look: one kept alive would not notice a listener that is gone.
        self._client = httpx.Client(
            timeout=timeout_seconds, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
        )

    def observe(self) -> Observation:
        began = self._clock.monotonic()
        try:
            answer = self._client.get(self._url)
            ok = answer.status_code == httpx.codes.OK
            detail = None if ok else f"HTTP {answer.status_code} {answer.text[:120]}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        return Observation(
            self.site, self.vantage, self.signal, ok, self._clock.now(), self._clock.monotonic() - began, detail
        )
