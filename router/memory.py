"""What an artifact remembers of its log, so that rows can be forgotten and all that was learnt be fitted anew.

Outcomes, weights and groups per row; of users a keyed hash each; never a text or a name. Serving reads none of it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ArtifactError
from router.files import json_bytes, npy_bytes, parse_array, parse_json
from router.types import JsonObject

FOLDER = "memory"
FACTS = f"{FOLDER}/facts.json"
KEY_BYTES = HASH_BYTES = 16
# dtype and number of axes of every array file, by the field that it holds.
MEMORY_ARRAYS: Mapping[str, tuple[str, int]] = {
    "groups": ("int32", 1),
    "unreadable": ("bool", 2),
    "row_weight": ("float32", 1),
    "input_tokens": ("int32", 1),
    "timestamps": ("float64", 1),
    "scores": ("float32", 2),
    "costs_usd": ("float32", 2),
    "output_tokens": ("float32", 2),
    "battles": ("int32", 2),
    "battle_values": ("float32", 2),
    "user_rows": ("int32", 1),
    "user_hashes": ("uint8", 2),
}
# Arrays in which NaN says that nothing is known; without anything known they are written without rows.
PARTLY_KNOWN = ("timestamps", "scores", "costs_usd", "output_tokens")
MEMORY_FILES = (FACTS, *(f"{FOLDER}/{name}.npy" for name in MEMORY_ARRAYS))


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a refit needs, and no more.

    key: 16 bytes, of the keyed hashes: of users, and of which rows are never learnt from. hold_out: share of the
    near-duplicate groups that were not. seed, margin: as trained. in_time: the report's rows were held out by time.
    n_forgotten: rows that are gone. groups: int32 (n_rows,), near-duplicates share one. unreadable: bool (n_rows,
    n_tiers), rows that serving would not ask the neighbours of. row_weight: float32 (n_rows,). input_tokens: int32
    (n_rows,). timestamps: float64 (n_rows,), NaN unless ``in_time``. scores, costs_usd, output_tokens: float32
    (n_rows, n_models), NaN where unknown. battles: int32 (n_battles, 4): row, columns of model_a and model_b, both bad.
    battle_values: float32 (n_battles, 2): outcome for model_a, weight. user_rows: int32 (n_users,), user_hashes:
    uint8 (n_users, 16): who stands behind which row.
    """

    key: bytes
    hold_out: float
    seed: int
    margin: float
    in_time: bool
    n_forgotten: int
    groups: NDArray[np.int32]
    unreadable: NDArray[np.bool_]
    row_weight: NDArray[np.float32]
    input_tokens: NDArray[np.int32]
    timestamps: NDArray[np.float64]
    scores: NDArray[np.float32]
    costs_usd: NDArray[np.float32]
    output_tokens: NDArray[np.float32]
    battles: NDArray[np.int32]
    battle_values: NDArray[np.float32]
    user_rows: NDArray[np.int32]
    user_hashes: NDArray[np.uint8]

    def rows_of_user(self, user: str) -> NDArray[np.int32]:
        """Return the rows that a user stands behind: int32, ascending."""
        wanted = np.frombuffer(user_hash(self.key, user), dtype=np.uint8)
        return np.unique(self.user_rows[(self.user_hashes == wanted).all(axis=1)])

    def without(self, gone: NDArray[np.bool_]) -> "Memory":
        """Return the memory without the marked rows, bool (n_rows,)."""
        keep = ~gone
        position = (np.cumsum(keep) - 1).astype(np.int32)
        fought, seen = keep[self.battles[:, 0]], keep[self.user_rows]
        battles = self.battles[fought]
        battles[:, 0] = position[battles[:, 0]]
        return replace(
            self,
            n_forgotten=self.n_forgotten + int(gone.sum()),
            groups=self.groups[keep],
            unreadable=self.unreadable[keep],
            row_weight=self.row_weight[keep],
            input_tokens=self.input_tokens[keep],
            timestamps=self.timestamps[keep],
            scores=self.scores[keep],
            costs_usd=self.costs_usd[keep],
            output_tokens=self.output_tokens[keep],
            battles=battles,
            battle_values=self.battle_values[fought],
            user_rows=position[self.user_rows[seen]],
            user_hashes=self.user_hashes[seen],
        )

    def of_tier(self, number: int) -> "Memory":
        """Return the memory of an artifact that keeps only its tier of this number."""
        return replace(self, unreadable=self.unreadable[:, number : number + 1])

    def files(self) -> dict[str, bytes]:
        """Return the content of MEMORY_FILES."""
        facts: JsonObject = {
            "key": self.key.hex(),
            "hold_out": self.hold_out,
            "seed": self.seed,
            "margin": self.margin,
            "in_time": self.in_time,
            "n_forgotten": self.n_forgotten,
        }
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in MEMORY_ARRAYS}
        for name in PARTLY_KNOWN:
            if np.isnan(arrays[name]).all():
                arrays[name] = arrays[name][:0]
        return {FACTS: json_bytes(facts)} | {f"{FOLDER}/{name}.npy": npy_bytes(one) for name, one in arrays.items()}


def user_hash(key: bytes, user: str) -> bytes:
    """Return 16 bytes that tell one user from another, and nobody without the key which one."""
    raw = user.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, key=key, digest_size=HASH_BYTES, person=b"whichmodel-user").digest()


def read_memory(contents: Mapping[str, bytes], root: Path, n_rows: int, n_models: int, n_tiers: int) -> Memory | None:
    """Return the memory of the artifact at ``root``, checked, or None where it has none.

    contents: the artifact's files, whose hashes are known to agree.

    Raises:
        ArtifactError: a file is missing or does not hold what it must; it is named.
    """
    if not set(MEMORY_FILES) & set(contents):
        return None
    missing = [name for name in MEMORY_FILES if name not in contents]
    if missing:
        raise ArtifactError(f"{root / missing[0]}: missing; expected all of {FOLDER}/ or nothing of it")
    arrays = {
        name: parse_array(contents[f"{FOLDER}/{name}.npy"], *form, root / FOLDER / f"{name}.npy")
        for name, form in MEMORY_ARRAYS.items()
    }
    for name in PARTLY_KNOWN:
        if len(arrays[name]) == 0:
            arrays[name] = np.full((n_rows, *arrays[name].shape[1:]), np.nan, dtype=arrays[name].dtype)
    facts = parse_json(contents[FACTS], root / FACTS)
    try:
        memory = Memory(
            key=bytes.fromhex(facts["key"]),
            hold_out=float(facts["hold_out"]),
            seed=int(facts["seed"]),
            margin=float(facts["margin"]),
            in_time=bool(facts["in_time"]),
            n_forgotten=int(facts["n_forgotten"]),
            **arrays,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(f"{root / FACTS}: {exc!r}") from exc
    if len(memory.key) != KEY_BYTES or not (0 <= memory.hold_out < 1 and 0 <= memory.seed < 2**32):
        raise ArtifactError(f"{root / FACTS}: the key, the share held out or the seed is impossible")
    _check_shapes(memory, root, n_rows, n_models, n_tiers)
    _check_numbers(memory, root, n_rows, n_models)
    return memory


def _check_shapes(memory: Memory, root: Path, n_rows: int, n_models: int, n_tiers: int) -> None:
    """Refuse, by name, arrays that do not belong together."""
    cells = (n_rows, n_models)
    wanted: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("groups", "row_weight", "input_tokens", "timestamps"), (n_rows,)),
        "unreadable": (n_rows, n_tiers),
        **dict.fromkeys(("scores", "costs_usd", "output_tokens"), cells),
        "battles": (len(memory.battles), 4),
        "battle_values": (len(memory.battles), 2),
        "user_hashes": (len(memory.user_rows), HASH_BYTES),
    }
    for name, shape in wanted.items():
        if getattr(memory, name).shape != shape:
            got = getattr(memory, name).shape
            raise ArtifactError(f"{root / FOLDER / name}.npy: shape {got}, expected {shape}")


def _check_numbers(memory: Memory, root: Path, n_rows: int, n_models: int) -> None:
    """Refuse, by name, numbers out of their range. NaN fails every comparison, where it is not allowed."""
    rows, columns = memory.battles[:, 0], memory.battles[:, 1:3]
    outcome, weight = memory.battle_values.T
    allowed = {
        "groups": memory.groups >= 0,
        "row_weight": (memory.row_weight > 0) & (memory.row_weight < np.inf),
        "input_tokens": memory.input_tokens >= 0,
        "timestamps": ~np.isinf(memory.timestamps),
        "scores": np.isnan(memory.scores) | ((memory.scores >= 0) & (memory.scores <= 1)),
        "costs_usd": np.isnan(memory.costs_usd) | ((memory.costs_usd >= 0) & (memory.costs_usd < np.inf)),
        "output_tokens": np.isnan(memory.output_tokens)
        | ((memory.output_tokens >= 0) & (memory.output_tokens < np.inf)),
        "battles": (rows >= 0) & (rows < n_rows) & ((columns >= 0) & (columns < n_models)).all(axis=1),
        "battle_values": (outcome >= 0) & (outcome <= 1) & (weight > 0) & (weight < np.inf),
        "user_rows": (memory.user_rows >= 0) & (memory.user_rows < n_rows),
    }
    for name, good in allowed.items():
        if not good.all():
            raise ArtifactError(f"{root / FOLDER / name}.npy: holds numbers that are out of their range")
