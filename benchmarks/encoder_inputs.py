"""What of a request an encoder should read: which end of a long prompt, and which turns of a chat."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from encoder_intents import SEED, Labelled, Messages, accuracy, ask, ask_cross_fitted, paired_difference
from encoder_zoo import cut_by
from tokenizers import Tokenizer

from router.encoder import TRUNCATIONS, Encoder, OnnxEncoder
from router.prompt import TURN_SEPARATOR, fold_messages
from training.metrics import share_interval

LONG_TOKENS = 300
SHORT_CHARS = 200
N_PASTED = 300


def long_texts(files: Sequence[Path], tokenizer: Tokenizer) -> list[str]:
    """Return the prompts of these files that are longer than any encoder here reads, repeated ones once."""
    texts = dict.fromkeys(text for file in files for text in pd.read_parquet(file, columns=["prompt"])["prompt"])
    return [text for text in texts if len(tokenizer.encode(text, add_special_tokens=False).ids) > LONG_TOKENS]


def pasted(queries: Labelled, bodies: Sequence[str], place: str) -> Labelled:
    """Return short instructions with a long body pasted behind ('start') or before ('end') each.

    Bodies repeat, so that prompts differ in nothing but the instruction at one end.
    """
    short = [at for at, text in enumerate(queries.texts) if len(text) <= SHORT_CHARS and not queries.messages[at]]
    rng = np.random.default_rng(SEED)
    own = queries.take(sorted(rng.permutation(short)[:N_PASTED].tolist()))
    parts = list(zip(own.texts, (bodies[one] for one in rng.integers(len(bodies), size=len(own.texts))), strict=True))
    texts = {
        "alone": own.texts,
        "start": [f"{text}{TURN_SEPARATOR}{body}" for text, body in parts],
        "end": [f"{body}{TURN_SEPARATOR}{text}" for text, body in parts],
    }
    return replace(own, texts=texts[place])


def by_truncation(encoder: OnnxEncoder, index: Labelled, queries: Labelled, bodies: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy on pasted prompts per strategy and place of the instruction, and on instructions alone."""
    out: dict[str, Any] = {}
    for truncation in TRUNCATIONS:
        cut = cut_by(encoder, truncation)
        out[truncation] = {
            place: accuracy(ask(cut, index, pasted(queries, bodies, place))) for place in ("alone", "start", "end")
        }
    return out


def all_turns(messages: Messages) -> str:
    """The user's turns, all of them: what serving does."""
    return fold_messages(messages)


def latest_turn(messages: Messages) -> str:
    """The user's latest turn."""
    return _turns(messages, "user")[-1]


def opener_and_latest(messages: Messages) -> str:
    """The user's first turn and the latest."""
    turns = _turns(messages, "user")
    return TURN_SEPARATOR.join(turns[:1] + turns[1:][-1:])


def system_opener_and_latest(messages: Messages) -> str:
    """The system prompts, the user's first turn and the latest."""
    return TURN_SEPARATOR.join([*_turns(messages, "system"), opener_and_latest(messages)])


FOLDINGS: dict[str, Callable[[Messages], str]] = {
    "all user turns": all_turns,
    "opener and latest": opener_and_latest,
    "system, opener and latest": system_opener_and_latest,
    "latest only": latest_turn,
}
CURRENT_FOLDING = "all user turns"


def _turns(messages: Messages, role: str) -> list[str]:
    return [str(one["content"]) for one in messages if one["role"] == role and str(one["content"]).strip()]


def by_folding(encoder: Encoder, rows: Labelled) -> dict[str, Any]:
    """Return the accuracy on the chats among the rows, cross-fitted, per rule; chats of the index follow it, too."""
    chats = np.array([one is not None for one in rows.messages])
    correct = {}
    for name, fold in FOLDINGS.items():
        texts = [text if one is None else fold(one) for text, one in zip(rows.texts, rows.messages, strict=True)]
        correct[name] = ask_cross_fitted(encoder, rows, texts).correct[chats]
    current, n = correct[CURRENT_FOLDING], int(chats.sum())
    return {
        name: asdict(share_interval(int(one.sum()), n))
        | {"n": n, "minus_current": None if name == CURRENT_FOLDING else paired_difference(one, current)}
        for name, one in correct.items()
    }
