"""Rows that are never learnt from: whole groups of near-duplicates, drawn by a keyed hash.

An artifact keeps the key. Whoever challenges it draws with the same one, so that both leave the same prompts alone,
whatever else is in their logs; and nobody who can only ask the service knows which prompts these are.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.memory import KEY_BYTES


def log_key(hashes: Sequence[str]) -> bytes:
    """Return the key of a log: 16 bytes that its prompts, in any order, decide, and nobody guesses without them."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"whichmodel-key")
    for one in sorted(hashes):
        digest.update(bytes.fromhex(one))
    return digest.digest()


def reserved_rows(hashes: Sequence[str], groups: NDArray[np.int64], key: bytes, share: float) -> NDArray[np.bool_]:
    """Return which rows are not learnt from: bool (n_rows,), ``share`` of the groups in the mean.

    One member stands for its group, the one with the smallest hash, and another hash of it draws: so the share does not
    grow with the group, and a newcomer rarely changes what is drawn. hashes: of the prompts as logged, whose template
    may be cut differently the next time. groups: int64 (n_rows,), near-duplicates share one.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share held out must be at least 0 and below 1, got {share}")
    first: dict[int, tuple[int, str]] = {}
    for group, one in zip(groups.tolist(), hashes, strict=True):
        rank = (_hash(key, one, b"whichmodel-first"), one)
        if group not in first or rank < first[group]:
            first[group] = rank
    drawn = {group for group, (_, one) in first.items() if _hash(key, one, b"whichmodel-draw") < share * 2**64}
    return np.array([group in drawn for group in groups.tolist()], dtype=bool)


def _hash(key: bytes, prompt_hash: str, purpose: bytes) -> int:
    raw = bytes.fromhex(prompt_hash)
    return int.from_bytes(hashlib.blake2b(raw, key=key, digest_size=8, person=purpose).digest(), "big")
