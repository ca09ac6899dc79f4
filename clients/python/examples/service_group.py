"""Tells which services are up, by their liveness: a service group like Nova's.

    python service_group.py althing:///run/althing.sock compute serve compute-1
    python service_group.py althing:///run/althing.sock compute list compute-1 compute-2

works with any driver of Tooz that has groups. What Althing adds: a service says why it is disabled without leaving, and
with ``?drop_on_disconnect=true`` in the URL one that is killed is down at once, not when its lease has run out.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterable
from typing import Any

import tooz
from tooz import coordination


class ServiceGroup:
    """Says which hosts run a service of one topic."""

    def __init__(self, url: str, topic: str, host: str) -> None:
        self.topic = topic.encode()
        self.coordinator = coordination.get_coordinator(url, host.encode())
        self.coordinator.start(start_heart=True)

    def join(self, **says: Any) -> None:
        """Is up from now on. Takes the place of a former run of this host that was not seen to end yet."""
        try:
            self.coordinator.join_group_create(self.topic, capabilities=says)
        except coordination.MemberAlreadyExist:
            self.coordinator.leave_group(self.topic).get()
            self.coordinator.join_group_create(self.topic, capabilities=says)

    def say(self, **says: Any) -> None:
        """Changes what this host says of itself; it stays up meanwhile."""
        self.coordinator.update_capabilities(self.topic, says).get()

    def up(self) -> dict[str, Any]:
        """Returns the hosts that are up, and what they say of themselves."""
        try:
            said = self.coordinator.get_members_with_capabilities(self.topic).get()
        except coordination.GroupNotCreated:
            return {}
        return {member.decode(): says for member, says in said.items()}

    def status(self, hosts: Iterable[str]) -> dict[str, str]:
        """Returns ``up``, ``disabled`` or ``down`` for each host that should be there."""
        up = self.up()
        return {
            host: "down" if host not in up else "disabled" if (up[host] or {}).get("disabled") else "up"
            for host in hosts
        }


def serve(group: ServiceGroup, every: float) -> None:
    """Is up until it is killed, and tells of those that come and go. A line of input disables it, an empty one enables."""
    topic = group.topic
    group.join(disabled="")
    group.coordinator.watch_join_group(topic, lambda event: print("up", event.member_id.decode(), flush=True))
    group.coordinator.watch_leave_group(topic, lambda event: print("down", event.member_id.decode(), flush=True))
    print("serving", flush=True)

    def read() -> None:
        for line in sys.stdin:
            group.say(disabled=line.strip())

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            group.coordinator.run_watchers()
        except tooz.ToozError as error:
            print("error", error, flush=True)
        threading.Event().wait(every)


def main() -> None:
    """Serves, or lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("verb", choices=("serve", "list"))
    parser.add_argument("host", nargs="+")
    parser.add_argument("--every", type=float, default=0.05, help="seconds between two looks")
    args = parser.parse_args()
    if args.verb == "serve":
        serve(ServiceGroup(args.url, args.topic, args.host[0]), args.every)
    group = ServiceGroup(args.url, args.topic, "who-lists")
    for host, status in group.status(args.host).items():
        print(host, status, flush=True)
    group.coordinator.stop()


if __name__ == "__main__":
    main()
