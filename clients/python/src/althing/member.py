"""A member of a group, as whoever joined sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from althing.revision import Revision

if TYPE_CHECKING:
    from althing.session import Session


@dataclass
class Stay:
    """Says what joined, and how it may come back."""

    ask: dict[str, Any]
    incarnation: str
    #: Presented at a later join, this supersedes this stay at once.
    resume: str = field(repr=False)

    @property
    def is_candidate(self) -> bool:
        """Tells whether it stands for election."""
        return bool(self.ask.get("candidate", True))


@dataclass(frozen=True)
class Member:
    """Is a member of a group, joined by :meth:`Session.join`."""

    session: Session
    group: str
    id: str

    def leave(self) -> None:
        """Leaves the group; a leader resigns first."""
        self.session.leave(self.group, self.id)

    def update(self, **changes: Any) -> None:
        """Changes ``metadata``, ``capabilities`` or ``candidate``. Its seniority stays."""
        self.session.update(self.group, self.id, **changes)

    def is_leader(self) -> bool:
        """Tells whether it leads now. Asks nobody."""
        return self.term is not None

    @property
    def term(self) -> Revision | None:
        """Returns the fencing token of the term in which it leads now. Asks nobody."""
        hold = self.session.leadership(self.group)
        return hold.term if hold is not None and hold.member == self.id else None

    @property
    def metadata(self) -> Mapping[str, str]:
        """Returns what it says of itself."""
        stay = self.session.stay(self.group, self.id)
        return dict(stay.ask.get("metadata") or {}) if stay else {}
