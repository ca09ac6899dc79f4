"""The boot clock, and until when a host may be believed."""

from __future__ import annotations

import time

from althing import limits

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Returns the seconds since the machine booted. Goes on while it sleeps, and nobody can set it."""
    return time.clock_gettime(_BOOT)


def deadline(sent: float, remaining: float) -> float:
    """Returns until when a client may believe in what a host granted for ``remaining`` when asked at ``sent``.

    Clocks drift, and the client needs a moment to notice: the host waits longer than this.
    """
    guard = max(limits.LEASE_GUARD_MIN, remaining * limits.LEASE_GUARD_SHARE)
    drift = remaining * limits.CLOCK_DRIFT
    return sent + max(0.0, remaining - guard - drift)
