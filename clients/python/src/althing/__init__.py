"""Groups, leaders and locks of an Althing host.

    import althing

    with althing.Client().session() as session:
        with session.lock("volume-1") as lock:
            write(fence=lock.token)

Needs nothing but the standard library. Everything is safe to share among threads.
"""

from althing.address import Address, default_socket
from althing.client import Client, GroupEvents
from althing.errors import (
    Busy,
    Closed,
    Conflict,
    Denied,
    Error,
    Exists,
    Fault,
    Format,
    Internal,
    Invalid,
    NoAnswer,
    NotFound,
    SessionLost,
    Timeout,
    TooLarge,
    Unavailable,
    Unsupported,
)
from althing.held import Elected, Ended, Event, LockLost, Lost, Rejoined, Removed, Standing
from althing.info import (
    GroupInfo,
    GroupSummary,
    Hold,
    HostInfo,
    LeaderInfo,
    LockBroken,
    LockHold,
    LockHolder,
    LockInfo,
    LockSummary,
    LockWaiter,
    MemberInfo,
    Owners,
    OwnersInfo,
    PartitionInfo,
    Share,
)
from althing.lock import Grant, Lock
from althing.member import Member
from althing.partition import Partition
from althing.rendezvous import Rendezvous
from althing.revision import Revision
from althing.ring import Ring
from althing.session import Session
from althing.shares import Shares

__all__ = [
    "Address",
    "Busy",
    "Client",
    "Closed",
    "Conflict",
    "Denied",
    "Elected",
    "Ended",
    "Error",
    "Event",
    "Exists",
    "Fault",
    "Format",
    "Grant",
    "GroupEvents",
    "GroupInfo",
    "GroupSummary",
    "Hold",
    "HostInfo",
    "Internal",
    "Invalid",
    "LeaderInfo",
    "Lock",
    "LockBroken",
    "LockHold",
    "LockHolder",
    "LockInfo",
    "LockLost",
    "LockSummary",
    "LockWaiter",
    "Lost",
    "Member",
    "MemberInfo",
    "NoAnswer",
    "NotFound",
    "Owners",
    "OwnersInfo",
    "Partition",
    "PartitionInfo",
    "Rejoined",
    "Removed",
    "Rendezvous",
    "Revision",
    "Ring",
    "Session",
    "SessionLost",
    "Share",
    "Shares",
    "Standing",
    "Timeout",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "default_socket",
]
