"""A driver of OpenStack Tooz for Althing: change one URL, ``althing:///run/althing.sock``.

Tooz finds it by its entry points; this module has what goes beyond Tooz.
"""

from tooz_althing.driver import AlthingDriver
from tooz_althing.events import (
    LeaderElected,
    LeaderLost,
    MemberJoinedGroup,
    MemberLeftGroup,
    MemberRemoved,
    SessionLost,
)
from tooz_althing.lock import AlthingLock
from tooz_althing.partition import AlthingPartitioner

__all__ = [
    "AlthingDriver",
    "AlthingLock",
    "AlthingPartitioner",
    "LeaderElected",
    "LeaderLost",
    "MemberJoinedGroup",
    "MemberLeftGroup",
    "MemberRemoved",
    "SessionLost",
]
