"""The heart of a coordinator: beats until it is stopped, and says how it is."""

from __future__ import annotations

import logging
import threading
import time

from tooz import coordination

_LOG = logging.getLogger("tooz_althing")

#: The pause after a beat that failed, in seconds.
_PAUSE = 1.0


class Heart(coordination.Heart):
    """Beats like Tooz's, stops at once also while its beats fail, and can start again right away."""

    #: Why the last beat failed; ``None`` after one that did not.
    failure: Exception | None = None

    def start(self, thread_cls: type[threading.Thread] | None = None) -> None:
        """Starts the heart, unless it beats."""
        if self._dead.is_set():
            # The thread of a former start may be in the middle of its last beat; it has its own event.
            self._runner = None
            self._dead = threading.Event()
        super().start(thread_cls)

    def adopt(self) -> None:
        """Begins anew in a forked process, in which there is no thread that beats."""
        self._runner = None
        self._dead = threading.Event()

    def _beat_forever_until_stopped(self) -> None:
        dead = self._dead
        while not dead.is_set():
            begun = time.monotonic()
            try:
                pause = self._driver.heartbeat() or _PAUSE
                self.failure = None
                self._beats += 1
                wait = max(0.0, pause - (time.monotonic() - begun)) / 2
            except Exception as error:
                if dead.is_set():
                    return
                self.failure = error
                _LOG.warning("a heartbeat failed: %s", error)
                wait = _PAUSE
            dead.wait(wait)
