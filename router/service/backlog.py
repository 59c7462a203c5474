"""Requests that were read and wait for their turn: past a bound, new ones are refused instead of answered late."""

from starlette.types import Scope

ROUTE_PATH = "/route"


class Backlog:
    """Counts requests to /route that wait for the event loop: between head and turn, and for a decision made there.

    On an overloaded loop these are what makes everybody late, and none of them knows it: the server counts them as
    their heads are read, and marks those that came when too many waited already. What waits for the encoder does not
    count: it has a bound of its own, and keeps nobody else waiting.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self.n_waiting = 0
        self._waiting = _Waiting(self)

    def enter(self, scope: Scope) -> None:
        """Count a request whose head was read, and mark it to be refused if it is one too many."""
        if scope.get("path") == ROUTE_PATH:
            scope["state"]["shed"] = self.n_waiting >= self._max_requests
            self.n_waiting += 1

    def leave(self, scope: Scope) -> bool:
        """Take a request whose turn has come out of the count; return True if it is to be refused."""
        shed = scope.get("state", {}).get("shed")
        if shed is None:  # another ASGI server, which counts nothing
            return False
        self.n_waiting -= 1
        return bool(shed)

    def waiting(self) -> "_Waiting":
        """Return what counts a request that waits for a decision, for as long as it is entered."""
        return self._waiting


class _Waiting:
    """Enters and leaves by one; holds nothing of its own, so that one serves all."""

    __slots__ = ("_backlog",)

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    def __enter__(self) -> None:
        self._backlog.n_waiting += 1

    def __exit__(self, *_: object) -> None:
        self._backlog.n_waiting -= 1
