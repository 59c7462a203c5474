"""Which model each conversation is with: bounded, forgotten after a while, and of this process alone."""

import threading
from collections import OrderedDict


class SessionTable:
    """At most ``n_sessions``, the longest unused out first; one that is not used for ``ttl_ms`` begins anew."""

    def __init__(self, n_sessions: int, ttl_ms: float) -> None:
        self._n_sessions = n_sessions
        self._ttl_ms = ttl_ms
        self._models: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._models)

    def model_of(self, session: str, now_ms: float) -> str | None:
        """Return the model that the session is with, or None where there is none, or none any more."""
        with self._lock:
            model, used_ms = self._models.get(session, (None, now_ms))
            if model is not None and now_ms - used_ms > self._ttl_ms:
                del self._models[session]
                return None
            return model

    def keep(self, session: str, model: str, now_ms: float) -> None:
        """Remember that the session is with this model now."""
        if self._n_sessions == 0:
            return
        with self._lock:
            self._models[session] = (model, now_ms)
            self._models.move_to_end(session)
            while len(self._models) > self._n_sessions:
                self._models.popitem(last=False)
