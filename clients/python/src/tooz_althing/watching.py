"""What happens in the groups that are watched, told when ``run_watchers()`` is called.

Level-triggered: members are compared with those of the former run. A member that left and joined again between two
runs is told as both. A callback that fails keeps no other from being called; it is tried again in the next runs, as
long as what it is told is still so, and at most three times in all.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tooz import coordination

from tooz_althing.events import MemberJoinedGroup, MemberLeftGroup

_LOG = logging.getLogger("tooz_althing")

_TRIES = 3

Hooks = Mapping[bytes, Iterable[Callable[[Any], Any]]]


@dataclass
class _Owed:
    callback: Callable[[Any], Any]
    event: Any
    tries: int = 0


class Watching:
    """Remembers who was seen in each group, and which callbacks are owed an event."""

    def __init__(self, joins: Hooks, leaves: Hooks) -> None:
        self._joins = joins
        self._leaves = leaves
        self._seen: dict[bytes, dict[bytes, str]] = {}
        self._owed: deque[_Owed] = deque()
        # A callback may run the watchers as well.
        self.gate = threading.RLock()

    def knows(self, group: bytes) -> bool:
        """Tells whether the group was looked at."""
        return group in self._seen

    def begin(self, group: bytes, members: dict[bytes, str]) -> None:
        """Takes the members there are as seen; ids with the names of their stays."""
        self._seen.setdefault(group, members)

    def forget(self, group: bytes) -> None:
        """Watches a group no longer."""
        self._seen.pop(group, None)

    def look(self, group: bytes, members: dict[bytes, str]) -> None:
        """Compares a group with what was seen, and owes its callbacks what changed."""
        before = self._seen.get(group, {})
        self._seen[group] = members
        came = [member for member in members if member not in before]
        left = [member for member in before if member not in members]
        again = [member for member in members if before.get(member, members[member]) != members[member]]
        for member in came:
            self._owe(self._joins, group, MemberJoinedGroup(group, member, members[member]))
        for member in left + again:
            self._owe(self._leaves, group, MemberLeftGroup(group, member, before[member]))
        for member in again:
            self._owe(self._joins, group, MemberJoinedGroup(group, member, members[member]))

    def pay(self) -> tuple[list[Any], Exception | None]:
        """Calls all callbacks that are owed an event. Returns what they returned, and the first failure."""
        results: list[Any] = []
        failure: Exception | None = None
        again: list[_Owed] = []
        try:
            while self._owed:
                owed = self._owed.popleft()
                if owed.tries and not self._is_so(owed):
                    continue
                owed.tries += 1
                try:
                    results.append(owed.callback(owed.event))
                except Exception as error:
                    _LOG.exception("a callback for %r failed", owed.event)
                    failure = failure or error
                    if owed.tries < _TRIES:
                        again.append(owed)
        finally:
            self._owed.extendleft(reversed(again))
        return results, failure

    def _owe(self, hooks: Hooks, group: bytes, event: coordination.Event) -> None:
        # Not by a look-up, which would make an entry in the dictionary of hooks.
        self._owed.extend(_Owed(callback, event) for callback in hooks.get(group, ()))

    def _is_so(self, owed: _Owed) -> bool:
        """Tells whether an event still says how things are, and its callback is still registered."""
        event = owed.event
        is_join = isinstance(event, MemberJoinedGroup)
        hooks = self._joins if is_join else self._leaves
        if owed.callback not in hooks.get(event.group_id, ()):
            return False
        return (event.member_id in self._seen.get(event.group_id, {})) == is_join
