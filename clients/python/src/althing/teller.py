"""Where callbacks are called: in a thread of their own, in the order of what they tell."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_LOG = logging.getLogger("althing")


class Teller:
    """Calls callbacks one after the other. One that fails is logged; one that is slow delays only those behind it."""

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.Lock())
        self._calls: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._thread: threading.Thread | None = None
        self._ended = False

    def tell(self, callback: Callable[[Any], object], value: Any) -> None:
        """Has ``callback`` called with ``value``. Does not wait for it."""
        with self._turn:
            self._calls.append((callback, value))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="althing callbacks", daemon=True)
                self._thread.start()
            self._turn.notify()

    def end(self) -> None:
        """Lets the thread end when it has called what is left."""
        with self._turn:
            self._ended = True
            self._turn.notify()

    def _run(self) -> None:
        while True:
            with self._turn:
                while not self._calls:
                    if self._ended:
                        self._thread = None
                        return
                    self._turn.wait()
                callback, value = self._calls.popleft()
            try:
                callback(value)
            except Exception:
                _LOG.exception("a callback for %r failed", value)
