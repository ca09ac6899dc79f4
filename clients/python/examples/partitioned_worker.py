"""Shares objects among workers, as Ceilometer's agents and Designate's producers do.

    python partitioned_worker.py althing:///run/althing.sock agents agent-1 --objects 100

works with any driver of Tooz that has groups. What Althing adds: an object never has two workers, also while it moves
from one to the other, and a worker that was cut off stops by itself.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterable

import tooz
from tooz import coordination


class Worker:
    """Works on its share of what there is, over and over."""

    def __init__(self, url: str, group: str, member: str, weight: int = 1) -> None:
        self.coordinator = coordination.get_coordinator(url, member.encode())
        self.coordinator.start(start_heart=True)
        self.partitioner = self.coordinator.join_partitioned_group(group.encode(), weight=weight)

    def mine(self, objects: Iterable[str]) -> list[str]:
        """Returns the objects to work on in this cycle. Call it while none of the former cycle is worked on any more."""
        try:
            # Here the others hear that the work of the former cycle is done.
            self.coordinator.run_watchers()
        except tooz.ToozError as error:
            # Without word of the others, as Aodh does: no work. What Althing knows stays true for as long as it says.
            print("error", error, flush=True)
            return []
        return [name for name in objects if self.partitioner.belongs_to_self(name)]

    def run(self, objects: Iterable[str], work: Callable[[list[str]], None], stop: threading.Event, pause: float) -> None:
        """Works in cycles until ``stop`` is set, then leaves: the others go on with its share at once."""
        known = list(objects)
        while not stop.is_set():
            work(self.mine(known))
            stop.wait(pause)
        self.coordinator.stop()


def main() -> None:
    """Works on objects by saying so: one line of JSON for each cycle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("group")
    parser.add_argument("member")
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--weight", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two cycles")
    args = parser.parse_args()

    def work(mine: list[str]) -> None:
        begun = time.monotonic()
        time.sleep(0.02)
        print(json.dumps({"objects": mine, "from": begun, "until": time.monotonic()}), flush=True)

    objects = [f"object-{index}" for index in range(args.objects)]
    Worker(args.url, args.group, args.member, args.weight).run(objects, work, threading.Event(), args.pause)


if __name__ == "__main__":
    main()
