"""The prompts that servers are asked: real ones, in the mix of lengths that users send, or cut to one length."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tokenizers import Tokenizer

FILES = ("cje_arena/prompts", "arenahard/questions_v0_1", "arenahard/questions_v2_0")
SHORT_WORDS, LONG_WORDS = 20, 230
SHARES = {"short": 0.60, "middle": 0.35, "long": 0.05}
"""Under 20 words, 20 to 230 words, 230 words."""
N_LONG = 400
"""Long prompts wanted; what the data lacks is joined from middle ones."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Distinct prompts, and which of them each request takes: order int64 (n_requests,)."""

    prompts: tuple[str, ...]
    order: NDArray[np.int64]


def files_of(data: Path) -> list[Path]:
    """Return the files that the prompts come from."""
    return [data / f"{one}.parquet" for one in FILES]


def real_prompts(data: Path) -> list[str]:
    """Return the distinct prompts of all files, in order."""
    found = (text for file in files_of(data) for text in pd.read_parquet(file, columns=["prompt"])["prompt"])
    return list(dict.fromkeys(text for text in found if text.strip()))


def by_length(texts: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Sort prompts into short, middle and long, each shuffled; long ones are cut to 230 words, or joined to them."""
    drawn = random.Random(seed)
    sizes = {text: len(text.split()) for text in texts}
    short = [text for text, n in sizes.items() if n < SHORT_WORDS]
    middle = [text for text, n in sizes.items() if SHORT_WORDS <= n <= LONG_WORDS]
    long = [cut(text, LONG_WORDS) for text, n in sizes.items() if n > LONG_WORDS]
    while middle and len(long) < N_LONG:
        parts: list[str] = []
        while sum(sizes[one] for one in parts) < LONG_WORDS:
            parts.append(drawn.choice(middle))
        long.append(cut("\n\n".join(parts), LONG_WORDS))
    pools = {"short": short, "middle": middle, "long": list(dict.fromkeys(long))}
    for one in pools.values():
        drawn.shuffle(one)
    return pools


def cut(text: str, n_words: int) -> str:
    """Return the text up to the end of its n-th word, spaces and line breaks as they are."""
    found = re.match(rf"\s*(?:\S+\s+){{{n_words - 1}}}\S+", text)
    return found[0] if found else text


def mixed(texts: Sequence[str], n: int, seed: int) -> Drawn:
    """Draw n requests in the mix of lengths; a prompt comes again only when all of its length have been taken."""
    pools = by_length(texts, seed)
    names = np.random.default_rng(seed).choice(list(SHARES), size=n, p=list(SHARES.values()))
    order = np.zeros(n, dtype=np.int64)
    first = 0
    for name, pool in pools.items():
        asked = np.flatnonzero(names == name)
        order[asked] = first + np.arange(len(asked)) % max(len(pool), 1)
        first += len(pool)
    return Drawn(tuple(text for pool in pools.values() for text in pool), order)


def repeated(prompts: Sequence[str], n: int) -> Drawn:
    """Draw n requests from the prompts in turn."""
    return Drawn(tuple(prompts), np.arange(n) % len(prompts))


def texts_of_length(texts: Sequence[str], tokenizer: Tokenizer, n_tokens: int) -> list[str]:
    """Return the texts that have so many tokens, cut behind the last of them."""
    out = []
    for text in texts:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) >= n_tokens:
            out.append(text[: offsets[n_tokens - 1][1]])
    return out
