"""Make battles.jsonl: the prompts of prompts.jsonl, judged by a rule instead of by people.

The five models are fictional. A model has a strength per intent, in logits (STRENGTHS), shifted for prompts that are
not in English (NOT_ENGLISH; in translation, foreign text is the rule and nothing is shifted). A battle is drawn so:

1. two different models, every ordered pair equally likely, so that positions mean nothing;
2. "both_bad" with probability 0.03, else "tie" with probability 0.12;
3. else model_a wins with probability sigmoid(strength_a - strength_b).

Every prompt has three battles. Twenty prompts come a second time with a trivial edit and one battle of their own, as
near-duplicates do in real logs. The cost of an answer is its prompt's length (four characters a token) and a drawn
answer length (log-normal around the model's mean) at the prices of models.yaml. Users, judges and times are drawn
without regard to anything else.

Run it as ``python data/sample/make_sample.py``: the same bytes come out every time.
"""

import datetime as dt
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

from router.needs import CHARS_PER_TOKEN
from router.profiles import read_profiles
from router.prompt import fold_messages

HERE = Path(__file__).parent
SEED = 0
BATTLES_PER_PROMPT = 3
N_DUPLICATES = 20
BOTH_BAD_SHARE = 0.03
TIE_SHARE = 0.12
N_USERS = 40
JUDGES = ("judge-1", "judge-2")
FIRST_DAY = dt.datetime(2025, 3, 3, tzinfo=dt.UTC)
N_DAYS = 10
# Spread of an answer's length around the model's mean, in natural logarithms.
LENGTH_SIGMA = 0.5

MODELS = ("small-fast", "coder-medium", "writer-medium", "polyglot-medium", "general-large")
STRENGTHS = {
    "code_generation": (-0.9, 2.2, -0.9, -0.6, 0.4),
    "code_debugging": (-0.9, 2.1, -0.9, -0.6, 0.4),
    "sql_and_data": (-0.8, 2.0, -0.8, -0.5, 0.4),
    "math_reasoning": (-0.9, 0.8, -0.9, -0.5, 1.0),
    "science_explanation": (-0.2, -0.2, 0.1, -0.1, 0.9),
    "legal_question": (-0.6, -0.4, 0.1, 0.0, 1.1),
    "travel_planning": (0.0, -0.4, 0.3, 0.3, 0.7),
    "factual_question": (0.8, -0.2, -0.2, 0.1, 0.4),
    "summarization": (0.2, -0.3, 0.8, 0.1, 0.4),
    "translation": (-0.4, -0.8, 0.0, 2.2, 0.3),
    "customer_email": (-0.3, -0.7, 1.9, 0.1, 0.2),
    "creative_writing": (-0.7, -0.8, 2.2, 0.0, 0.2),
    "roleplay_chat": (-0.5, -0.7, 2.0, 0.1, 0.2),
    "brainstorming": (-0.3, -0.6, 1.8, 0.0, 0.2),
}
NOT_ENGLISH = (-0.4, -0.4, -0.8, 1.6, -0.2)

Prompt = dict[str, Any]


class Draw:
    """Random numbers from ``random()`` alone: the one method whose stream Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - a sample, not a secret

    def unit(self) -> float:
        """Return a number in 0..1."""
        return self._random()

    def below(self, n: int) -> int:
        """Return a whole number in 0..n-1."""
        return int(self._random() * n)

    def normal(self) -> float:
        """Return a standard normal number (Box & Muller)."""
        return math.sqrt(-2.0 * math.log(1.0 - self._random())) * math.cos(2.0 * math.pi * self._random())


def read_prompts() -> list[Prompt]:
    """Return the prompts as written: ``prompt`` or ``messages``, with ``intent`` and ``language``."""
    with (HERE / "prompts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def edits_of(text: str) -> tuple[str, ...]:
    """Return the trivial edits of a text that a near-duplicate may have."""
    return (
        text.lower(),
        text + " Thanks!",
        "Please help: " + text,
        text.replace(", ", " "),
        text.rstrip("?.!") + " ??",
    )


def plant_duplicates(prompts: list[Prompt], draw: Draw) -> list[tuple[Prompt, Prompt]]:
    """Return (original, near-duplicate) pairs: English single-turn prompts of 80 characters or more."""
    fit = [one for one in prompts if one["language"] == "en" and len(one.get("prompt", "")) >= 80]
    pairs = []
    for number in range(N_DUPLICATES):
        original = fit.pop(draw.below(len(fit)))
        text = original["prompt"]
        edits = [edit for edit in edits_of(text) if edit != text]
        pairs.append((original, original | {"prompt": edits[number % len(edits)]}))
    return pairs


def strengths_of(prompt: Prompt) -> list[float]:
    """Return every model's strength on a prompt, in logits."""
    strengths = STRENGTHS[prompt["intent"]]
    if prompt["language"] == "en" or prompt["intent"] == "translation":
        return list(strengths)
    return [one + shift for one, shift in zip(strengths, NOT_ENGLISH, strict=True)]


def draw_winner(strength_a: float, strength_b: float, draw: Draw) -> str:
    """Return the winner by the rule in the module docstring."""
    if draw.unit() < BOTH_BAD_SHARE:
        return "both_bad"
    if draw.unit() < TIE_SHARE:
        return "tie"
    return "model_a" if draw.unit() < 1.0 / (1.0 + math.exp(strength_b - strength_a)) else "model_b"


def draw_battle(prompt: Prompt, draw: Draw) -> dict[str, Any]:
    """Return one battle on a prompt, a canonical record."""
    a = draw.below(len(MODELS))
    b = (a + 1 + draw.below(len(MODELS) - 1)) % len(MODELS)
    strengths = strengths_of(prompt)
    winner = draw_winner(strengths[a], strengths[b], draw)
    second = int(draw.unit() * N_DAYS * 24 * 3600)
    text = {"prompt": prompt["prompt"]} if "prompt" in prompt else {"messages": prompt["messages"]}
    return text | {
        "model_a": MODELS[a],
        "model_b": MODELS[b],
        "winner": winner,
        "intent": prompt["intent"],
        "cost_usd": {MODELS[one]: draw_cost_usd(MODELS[one], prompt, draw) for one in (a, b)},
        "judge": JUDGES[draw.below(len(JUDGES))],
        # A power above 1 favours the low numbers: some people write more than others.
        "user": f"user-{1 + int(draw.unit() ** 1.3 * N_USERS):02d}",
        "timestamp": (FIRST_DAY + dt.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def draw_cost_usd(model: str, prompt: Prompt, draw: Draw) -> float:
    """Return the cost of one answer, rounded to a hundred-millionth of a dollar."""
    profile = PROFILES[model]
    price = profile.endpoints[0]
    text = prompt["prompt"] if "prompt" in prompt else fold_messages(prompt["messages"])
    n_in = math.ceil(len(text) / CHARS_PER_TOKEN)
    n_out = round(profile.mean_output_tokens * math.exp(LENGTH_SIGMA * draw.normal() - LENGTH_SIGMA**2 / 2))
    return round((n_in * price.usd_per_mtok_in + n_out * price.usd_per_mtok_out) / 1e6, 8)


def make_battles() -> list[dict[str, Any]]:
    """Return all battles, oldest first."""
    draw = Draw(SEED)
    prompts = read_prompts()
    planted = [duplicate for _, duplicate in plant_duplicates(prompts, draw)]
    battles = [draw_battle(one, draw) for one in prompts for _ in range(BATTLES_PER_PROMPT)]
    battles += [draw_battle(one, draw) for one in planted]
    return sorted(battles, key=lambda one: (one["timestamp"], json.dumps(one, sort_keys=True)))


def render(battles: list[dict[str, Any]]) -> bytes:
    """Return the file's bytes: JSON Lines in UTF-8."""
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in battles).encode()


def strengths_table() -> str:
    """Return the table of strengths that README.md shows."""
    lines = ["| intent | " + " | ".join(MODELS) + " |", "|---|" + "---:|" * len(MODELS)]
    lines += [f"| {intent} | " + " | ".join(f"{one:+.1f}" for one in row) + " |" for intent, row in STRENGTHS.items()]
    lines.append("| *not in English: add* | " + " | ".join(f"{one:+.1f}" for one in NOT_ENGLISH) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write battles.jsonl and print what is in it."""
    battles = make_battles()
    (HERE / "battles.jsonl").write_bytes(render(battles))
    print(f"{len(battles)} battles")
    for name in ("winner", "intent", "judge"):
        print(name, dict(Counter(one[name] for one in battles).most_common()))
    print("largest user", Counter(one["user"] for one in battles).most_common(1))


PROFILES = read_profiles(HERE / "models.yaml")

if __name__ == "__main__":
    main()
