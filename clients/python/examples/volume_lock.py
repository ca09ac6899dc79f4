"""Lets one caller at a time work on a volume, on all machines: a decorator like Cinder's.

    python volume_lock.py althing:///run/althing.sock host-1 volume-7

works with any driver of Tooz. What Althing adds: a worker that lost its lock stops before its next step, also when it
was the one that stood still, and each step carries a token by which storage can refuse it.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from tooz import coordination, locking

Function = Callable[..., Any]


class LockLost(Exception):
    """Tells that somebody else may hold the lock by now."""


def synchronized(name: str, coordinator: coordination.CoordinationDriver, blocking: Any = True) -> Callable[[Function], Function]:
    """Lets in one caller for each ``name``, in which ``{f_name}`` and the arguments are filled in.

    A function that has an argument ``lock`` is given the lock.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function)

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            if "lock" in parameters.parameters:
                kwargs["lock"] = None
            call = parameters.bind(*args, **kwargs).arguments
            lock = coordinator.get_lock(name.format(f_name=function.__name__, **call).encode())
            if "lock" in parameters.parameters:
                kwargs["lock"] = lock
            # Fails with LockAcquireFailed where it is not got in time.
            with lock(blocking):
                return function(*args, **kwargs)

        return inner

    return decorate


def check(lock: locking.Lock) -> None:
    """Fails once the lock was lost. Other drivers than Althing's believe in it until they release it."""
    if not lock.acquired:  # type: ignore[attr-defined]
        raise LockLost(f"{lock.name!r} was lost")


def main() -> None:
    """Works on a volume step by step, and says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("member")
    parser.add_argument("volume")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds for each step")
    args = parser.parse_args()
    coordinator = coordination.get_coordinator(args.url, args.member.encode())
    coordinator.start(start_heart=True)

    @synchronized("{f_name}-{volume}", coordinator)
    def extend(volume: str, lock: locking.Lock) -> None:
        for step in range(args.steps):
            check(lock)
            print("step", step, int(getattr(lock, "token", None) or 0), flush=True)
            time.sleep(args.pause)

    try:
        extend(args.volume)
        print("done", flush=True)
    except LockLost as error:
        print("lost", error, flush=True)
    finally:
        coordinator.stop()


if __name__ == "__main__":
    main()
