"""Decisions that were made already: bounded, least recently used out first."""

import hashlib
import threading
from collections import OrderedDict

from router.types import Decision

Key = bytes


def cache_key(text: str, other: tuple[object, ...]) -> Key:
    """Return a hash of what a decision depends on besides the artifact: all of the text (costs and surface features
    read more of it than the tokenizer does), and what else ``repr`` tells apart.
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\0" + repr(other).encode("utf-8", "surrogatepass"))
    return digest.digest()


class DecisionCache:
    """At most ``n_entries`` decisions of one artifact; another artifact or other prices need another cache."""

    def __init__(self, n_entries: int) -> None:
        self._n_entries = n_entries
        self._decisions: OrderedDict[Key, Decision] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._decisions)

    def get(self, key: Key) -> Decision | None:
        """Return the decision as it was stored, or None."""
        with self._lock:
            found = self._decisions.get(key)
            if found is not None:
                self._decisions.move_to_end(key)
            return found

    def put(self, key: Key, decision: Decision) -> None:
        """Store a decision; the one that was asked for longest ago goes when there are too many."""
        if self._n_entries == 0:
            return
        with self._lock:
            self._decisions[key] = decision
            self._decisions.move_to_end(key)
            if len(self._decisions) > self._n_entries:
                self._decisions.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._decisions.clear()
