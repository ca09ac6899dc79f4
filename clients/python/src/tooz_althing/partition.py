"""A partitioner that follows its group whatever happens in it, and lets nothing have two owners while it moves."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import tooz
from tooz import hashring, partitioner

from althing import MemberInfo, PartitionInfo, Ring
from althing.partition import Seen
from althing.shares import shares_among
from tooz_althing import names

if TYPE_CHECKING:
    from tooz_althing.driver import AlthingDriver

class FixedRing(hashring.HashRing):
    """Maps as Tooz's ring does, and is made once.

    Where points of two nodes are equal, Tooz's depends on the order in which they were added. Here all members of a
    group agree on the owner. Ids that are no UTF-8 lie where their names on the host do.
    """

    def __init__(self, weights: Mapping[bytes, int], partitions: int) -> None:
        super().__init__([], partitions)
        self.nodes = dict(weights)
        named = {names.to_name(node): weight for node, weight in weights.items()}
        self._named: Ring[str] = Ring(named, partitions=partitions)

    def add_nodes(self, nodes: Iterable[Any], weight: int = 1) -> None:
        """Fails: the ring is that of the members there are."""
        if set(nodes):
            raise tooz.ToozError("this ring follows its group; make a tooz.hashring.HashRing of your own")

    def remove_node(self, node: Any) -> None:
        """Fails: the ring is that of the members there are."""
        self.add_nodes([node])

    def owners(self, data: str | bytes, replicas: int = 1, ignore: Iterable[Any] | None = None) -> list[bytes]:
        """Returns the owners of what ``data`` names, in their order."""
        ignored = {names.to_name(node) for node in ignore or () if isinstance(node, (bytes, str))}
        return [names.from_name(name) for name in self._named.owners(data, replicas, ignore=ignored)]

    def get_nodes(self, data: bytes, ignore_nodes: Iterable[Any] | None = None, replicas: int = 1) -> set[Any]:
        """Returns the owners of what ``data`` names."""
        return set(self.owners(data, replicas, ignore_nodes))

    def __len__(self) -> int:
        return len(self._named.points)


class AlthingPartitioner(partitioner.Partitioner):
    """Partitions objects among the members of a group.

    At each ``run_watchers()`` its ring becomes that of the members and weights there are, so that it needs no hooks,
    misses nobody and follows weights that ``update_capabilities`` changed.

    ``belongs_to_self(obj)`` is true only while it is true for no other member: what moves belongs to nobody until the
    one that had it has run its watchers, has left, or is gone. What works on objects while ``run_watchers()`` runs, in
    another thread, sets ``settles`` to false and calls :meth:`settle` when it is through.
    """

    def __init__(
        self,
        coordinator: AlthingDriver,
        group_id: bytes,
        partitions: int = partitioner.Partitioner.DEFAULT_PARTITION_NUMBER,
    ) -> None:
        self._coord = coordinator
        self._driver = coordinator
        self.group_id = group_id
        self.partitions = partitions
        #: Whether ``run_watchers()`` says that this member works no more on what it lost.
        self.settles = True
        #: Whether it was logged that the group is not shared in this way.
        self.was_told = False
        self.ring = self._ring = FixedRing({}, partitions)
        self._seen: Seen | None = None
        self._stay: str | None = None
        self._gate = threading.Lock()
        coordinator.attach(names.to_id(group_id), self)

    @property
    def partition(self) -> PartitionInfo | None:
        """Returns who shares, who shared before, and for whom the others wait, as it was seen last."""
        seen = self._seen
        return seen.info if seen is not None else None

    @property
    def is_exclusive(self) -> bool:
        """Tells whether ``belongs_to_self`` waits for whoever had an object.

        Not where members of the group name different ``partitions``, or more than a host takes: then it tells what the
        ring says, as Tooz's own does.
        """
        return self._seen is not None

    def follow(self, members: list[MemberInfo], partition: PartitionInfo | None) -> None:
        """Makes the ring that of these members, and takes in who may work on what."""
        shares = shares_among(members, self.partitions)
        weights = {names.from_name(share.id): share.weight for share in shares if share.weight > 0}
        if weights != self._ring.nodes:
            # Swapped in as a whole: whoever looks up meanwhile sees the former one or this.
            self.ring = self._ring = FixedRing(weights, self.partitions)
        self.see(partition)

    def see(self, partition: PartitionInfo | None) -> None:
        """Takes in who may work on what, unless something newer was seen in this stay."""
        stay = self._driver.incarnation(names.to_id(self.group_id))
        with self._gate:
            if stay is not None and stay != self._stay:
                # Versions begin anew with the group, and that may have gone only while this member was not in it.
                self._stay, self._seen = stay, None
            if partition is None or (partition.algorithm, partition.points) != ("ring", self.partitions):
                self._seen = None
            elif self._seen is None or partition.is_newer_than(self._seen.info):
                self._seen = Seen.of(partition)

    def belongs_to_self(
        self, obj: object, ignore_members: Iterable[object] | None = None, replicas: int = 1
    ) -> bool:
        """Tells whether this coordinator may work on an object. Asks nobody.

        With ``ignore_members`` or several ``replicas`` it tells what the ring says, and waits for nobody.
        """
        if not super().belongs_to_self(obj, ignore_members, replicas):
            return False
        seen = self._seen
        if seen is None or ignore_members or replicas != 1:
            return True
        incarnation = self._driver.incarnation(names.to_id(self.group_id))
        return seen.owns(self._driver.me, incarnation, self._hash_object(obj))

    def owners_for_object(
        self, obj: object, ignore_members: Iterable[bytes] | None = None, replicas: int = 1
    ) -> list[bytes]:
        """Returns the members responsible for an object in their order, the primary first."""
        return self._ring.owners(self._hash_object(obj), replicas, ignore_members)

    def settle(self) -> None:
        """Says that this member works on nothing any more that does not belong to it."""
        self._driver.settle(names.to_id(self.group_id))

    def stop(self) -> None:
        """Stops following the group."""
        self._driver.detach(names.to_id(self.group_id), self)
