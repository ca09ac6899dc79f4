"""Who is responsible for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tooz import hashring

from stage import Saw, Stage, row, until

OBJECTS = [f"object-{number}" for number in range(200)]


@row(
    "B joins while A makes a partitioner, then leaves",
    redis="1.14",
    zookeeper="1.14",
    etcd="1.14",
    file="1.14",
)
def a_wedged_partitioner(stage: Stage) -> Saw:
    """It is missing from the ring; when it leaves, `run_watchers` raises on every call.

    Tooz's partitioner asks for the members and then registers its watches: B joins in between. Ours has no
    such moment: B joins right after it was made.
    """
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    coordinator = first.coordinator
    watch = coordinator.watch_join_group
    joined: list[bytes] = []

    def late(group_id: bytes, callback: Any) -> None:
        if not joined:
            second.join(group)
            joined.append(second.member)
        watch(group_id, callback)

    coordinator.watch_join_group = late
    partitioner = coordinator.join_partitioned_group(group)
    if not joined:
        second.join(group)
    seen = until(lambda: second.member in partitioner.ring.nodes, 1, first) is not None
    second.coordinator.leave_group(group).get()
    errors: list[str] = []

    def is_gone() -> bool:
        try:
            coordinator.run_watchers()
        except Exception as error:
            errors.append(type(error).__name__)
        return not errors and second.member not in partitioner.ring.nodes

    gone = until(is_gone, 1) is not None
    raises = f"run_watchers raises {errors[0]} for ever" if errors else ""
    said = f"{'seen' if seen else 'never seen'}; {'gone' if gone else raises or 'stays'}"
    return Saw(said, right=seen and gone)


@row("B changes its weight from 1 to 9", redis="1.14", zookeeper="1.14", etcd="1.14")
def a_weight_that_changed(stage: Stage) -> Saw:
    """A weight counts as it was when the member joined."""
    group, first, second = stage.name("group"), stage.service("a"), stage.service("b")
    partitioner = first.coordinator.join_partitioned_group(group)
    second.coordinator.join_partitioned_group(group, weight=1)
    until(lambda: second.member in partitioner.ring.nodes, 1, first)
    second.coordinator.update_capabilities(group, {"weight": 9}).get()
    until(lambda: partitioner.ring.nodes.get(second.member) == 9, 1, first)
    weight = partitioner.ring.nodes.get(second.member)
    return Saw(f"A's ring has weight {weight}", right=weight == 9)


class OurRing:
    """A ring of Althing with the two calls of Tooz's."""

    def __init__(self, partitions: int) -> None:
        from althing import Ring

        self.ring: Any = Ring(partitions=partitions)
        self.nodes: dict[str, int] = {}

    def add_node(self, node: str, weight: int) -> None:
        """Adds a node, or gives it another weight."""
        self.nodes[node] = weight
        self.ring.follow(self.nodes)

    def remove_node(self, node: str) -> None:
        """Removes it."""
        del self.nodes[node]
        self.ring.follow(self.nodes)

    def get_nodes(self, data: bytes) -> Iterable[str]:
        """Returns who owns something."""
        owners: list[str] = self.ring.owners(data)
        return owners


@row("a node of a ring gets a smaller weight, then is removed", file="1.13")
def a_node_that_was_removed(stage: Stage) -> Saw:
    """Its points are left behind, and it goes on to own objects. No server is needed for this."""
    ring: Any = OurRing(32) if stage.side == "althing" else hashring.HashRing([], partitions=32)
    for node, weight in (("a", 1), ("b", 1), ("c", 5), ("c", 1)):
        ring.add_node(node, weight=weight)
    ring.remove_node("c")
    wrong = sum("c" in ring.get_nodes(name.encode()) for name in OBJECTS)
    share = 100 * wrong // len(OBJECTS)
    return Saw(f"{share} % of objects go to the removed node", right=wrong == 0)
