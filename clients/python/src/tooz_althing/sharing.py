"""What the members of a group share by the host's partition of it, as far as one coordinator has a part in it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import tooz

import althing
from althing import GroupInfo, PartitionInfo
from tooz_althing import failure

if TYPE_CHECKING:
    from tooz_althing.driver import AlthingDriver
    from tooz_althing.partition import AlthingPartitioner

_LOG = logging.getLogger("tooz_althing")

#: How long whoever joins waits at most for its part in a group where nobody has to give up anything, in seconds.
_PART_WITHIN = 1.0
#: How often the host is asked meanwhile.
_LOOK = 0.02
#: Why a group is not shared in the way of a partitioner: others say another way, or the host cannot.
_CANNOT = (althing.Conflict, althing.Invalid, althing.TooLarge, althing.Unsupported)


class Sharing:
    """Has partitioners follow their groups, and says what this coordinator gave up."""

    def __init__(self, driver: AlthingDriver) -> None:
        self._driver = driver
        self._partitioners: dict[bytes, list[AlthingPartitioner]] = {}

    def __contains__(self, group: object) -> bool:
        return group in self._partitioners

    def groups(self) -> list[bytes]:
        """Lists the groups that have a partitioner."""
        return list(self._partitioners)

    def attach(self, group: bytes, partitioner: AlthingPartitioner) -> None:
        """Has a partitioner follow its group, and waits for a moment until this member has a part in it."""
        self._partition(group, partitioner)
        until = time.monotonic() + _PART_WITHIN
        while True:
            info = self._group(group)
            partitioner.follow(info.members, info.partition)
            if self._is_settled(group, info.partition) or time.monotonic() >= until:
                break
            time.sleep(_LOOK)
        self._partitioners.setdefault(group, []).append(partitioner)

    def detach(self, group: bytes, partitioner: AlthingPartitioner) -> None:
        """Has it follow no longer."""
        attached = self._partitioners.get(group, [])
        if partitioner in attached:
            attached.remove(partitioner)
        if not attached:
            self._partitioners.pop(group, None)
            self._settle_idle(group)

    def look(self, group: bytes) -> GroupInfo:
        """Asks how a group is, and has it shared where it was made anew."""
        info = self._group(group)
        for partitioner in self._partitioners.get(group, ())[:1]:
            if info.partition is None:
                self._partition(group, partitioner)
                info = self._group(group)
        return info

    def follow(self, group: bytes, info: GroupInfo | None) -> None:
        """Has the partitioners of a group see how it is; ``None`` is a group that is gone.

        Called by the thread that works on the objects, which works on nothing at this moment.
        """
        attached = list(self._partitioners.get(group, ()))
        for partitioner in attached:
            partitioner.follow(info.members if info else [], info.partition if info else None)
        if info is not None and all(partitioner.settles for partitioner in attached):
            self.settle(group)

    def settle(self, group: bytes) -> None:
        """Says that this member works on nothing any more that is not its own by what its partitioners have seen.

        What does not get through is said again at the next run.
        """
        attached = list(self._partitioners.get(group, ()))
        seen = [partitioner.partition for partitioner in attached if partitioner.partition is not None]
        if not seen:
            return self._settle_idle(group)
        # Not more than all of them have seen.
        answer = self._say(group, min(seen, key=lambda info: info.version))
        if answer is not None:
            for partitioner in attached:
                partitioner.see(answer)

    def settle_idle(self) -> None:
        """Says so for the groups that this member joined without a partitioner: nothing is worked on there."""
        for group in list(self._driver.joined()):
            if group not in self._partitioners:
                self._settle_idle(group)

    def _settle_idle(self, group: bytes) -> None:
        driver = self._driver
        if driver.incarnation(group) is None:
            return
        try:
            self._say(group, driver.client.partition(driver.name_of(group)))
        except (althing.Error, tooz.ToozError) as error:
            _LOG.debug("%r is not shared, as far as is known: %s", group, error)

    def _say(self, group: bytes, seen: PartitionInfo) -> PartitionInfo | None:
        driver = self._driver
        if driver.me not in seen.pending:
            return None
        try:
            return driver.session().settle(driver.name_of(group), driver.me, seen.version)
        except (althing.Error, tooz.ToozError) as error:
            _LOG.warning("could not say yet what was given up in %r: %s", group, error)
            return None

    def _partition(self, group: bytes, partitioner: AlthingPartitioner) -> None:
        driver = self._driver
        try:
            driver.client.partition_group(driver.name_of(group), points=partitioner.partitions)
        except althing.NotFound:
            raise failure.group_not_created(group) from None
        except _CANNOT as error:
            if not partitioner.was_told:
                _LOG.warning("an object of %r may have two owners while it moves: %s", group, error)
            partitioner.was_told = True

    def _group(self, group: bytes) -> GroupInfo:
        try:
            return self._driver.client.group(self._driver.name_of(group))
        except althing.NotFound:
            raise failure.group_not_created(group) from None

    def _is_settled(self, group: bytes, partition: PartitionInfo | None) -> bool:
        """Tells whether there is nothing that a moment more would bring."""
        incarnation = self._driver.incarnation(group)
        if partition is None or partition.pending or incarnation is None:
            return True
        return any(share.incarnation == incarnation for share in partition.members)
