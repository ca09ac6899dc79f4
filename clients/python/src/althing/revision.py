"""Revisions: terms, tokens and everything else that is ordered by the backend."""

from __future__ import annotations


class Revision(int):
    """Counts the commits of a namespace. A fencing token: compare it as a number.

    As text it has twenty digits, so that it orders as text too; that is what hosts and other clients see.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return f"{int(self):020d}"

    def __repr__(self) -> str:
        return f"Revision({int(self)})"

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)
