"""Where the asynchronous calls of a coordinator are done: one after the other, in the order they were made."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import tooz

T = TypeVar("T")

#: How long the thread waits for more before it ends, in seconds. The next call starts another.
_IDLE = 10.0
_KINDS = {"threaded": True, "thread": True, "threading": True, "synchronous": False, "sync": False}


class Worker:
    """Does calls in a thread of its own, one at a time; or at once, where it is ``sync``."""

    def __init__(self, kind: str = "threaded") -> None:
        if kind not in _KINDS:
            raise tooz.ToozError(f"Unknown executor '{kind}' provided, accepted values are {sorted(_KINDS)}")
        self._threaded = _KINDS[kind]
        self._turn = threading.Condition(threading.Lock())
        self._calls: deque[tuple[futures.Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, call: Callable[[], T]) -> futures.Future[T]:
        """Has a call done. Returns where its result will be."""
        future: futures.Future[T] = futures.Future()
        if not self._threaded:
            _do(future, call)
            return future
        with self._turn:
            if self._closed:
                raise tooz.ToozError("the coordinator was stopped")
            self._calls.append((future, call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="althing coordinator", daemon=True)
                self._thread.start()
            self._turn.notify()
        return future

    def close(self, timeout: float) -> None:
        """Takes no more calls, and waits for those under way for at most ``timeout`` seconds."""
        with self._turn:
            self._closed = True
            thread = self._thread
            self._turn.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        with self._turn:
            left, self._calls = self._calls, deque()
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(tooz.ToozError("the coordinator was stopped"))

    def _run(self) -> None:
        while True:
            with self._turn:
                if not self._calls and not self._closed:
                    self._turn.wait(_IDLE)
                if not self._calls:
                    self._thread = None
                    return
                future, call = self._calls.popleft()
            _do(future, call)
            # What is waited for must not be kept alive by the thread that waits for more.
            del future, call


def _do(future: futures.Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
