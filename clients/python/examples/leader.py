"""Has one process of several do a periodic task, as ironic-inspector does for its clean-up.

    python leader.py althing:///run/althing.sock inspectors inspector-1

works with any driver of Tooz that has elections. What Althing adds: a leader is told that it lost, so that what was set
when it was elected is taken back; whether it leads is known at every moment; and each term has a token.
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

import tooz
from tooz import coordination


class Leader:
    """Takes part in the election of a group."""

    def __init__(self, url: str, group: str, member: str) -> None:
        self.group = group.encode()
        self._elected = False
        self.coordinator = coordination.get_coordinator(url, member.encode())
        self.coordinator.start(start_heart=True)
        self.coordinator.join_group_create(self.group)
        self.coordinator.watch_elected_as_leader(self.group, self._on_elected)
        if hasattr(self.coordinator, "watch_leader_lost"):
            self.coordinator.watch_leader_lost(self.group, self._on_lost)

    @property
    def token(self) -> int:
        """Returns by what this process leads now, 0 while it does not. Give it along with what the leader writes."""
        if hasattr(self.coordinator, "leader_token"):
            return int(self.coordinator.leader_token(self.group) or 0)
        # Tooz's own drivers do not tell of a loss: all they know is that it was elected once.
        return int(self._elected)

    def _on_elected(self, event: Any) -> None:
        self._elected = True
        print("elected", int(getattr(event, "token", 0)), flush=True)

    def _on_lost(self, event: Any) -> None:
        """Is called at once, from another thread."""
        self._elected = False
        print("lost", event.reason, flush=True)

    def run(self, stop: threading.Event, pause: float) -> None:
        """Does the task whenever this process leads, until ``stop`` is set; then the next one leads."""
        while not stop.is_set():
            try:
                self.coordinator.run_watchers()
            except tooz.ToozError as error:
                print("error", error, flush=True)
            token = self.token
            if token:
                print("tick", token, flush=True)
            stop.wait(pause)
        self.coordinator.stop()


def main() -> None:
    """Ticks while it leads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("group")
    parser.add_argument("member")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two ticks")
    args = parser.parse_args()
    try:
        leader = Leader(args.url, args.group, args.member)
        leader.run(threading.Event(), args.pause)
    except tooz.NotImplemented:
        # Do not assume to lead, as if there were nobody else.
        print("no elections", flush=True)


if __name__ == "__main__":
    main()
