"""A small log written for the tests, the artifact trained on it, and one made by hand without the training extra."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from router.artifact import RouterArtifact
from router.encoder import OnnxEncoder, embed
from router.estimate import EstimatorSettings, Evidence
from router.features import surface_features
from router.index import round_points
from router.prompt import Template, prompt_hash
from router.space import fit_space
from router.tier import Tier
from router.types import Endpoint, ModelProfile, Verdict

if TYPE_CHECKING:
    from training.comparisons import PreferenceLog
    from training.report import Report

MODELS = ("coder-medium", "chef-large", "guide-small")
INTENTS = ("code", "cooking", "travel")
OPENINGS = {
    "code": (
        "Fix the {} in my {} script",
        "Why does this {} raise an error when the {} is empty?",
        "def handle_{}({}): return None  # finish this function",
        "Explain {} to somebody who only knows {}",
        "Our {} test is flaky since we changed the {}, what should I look at first?",
    ),
    "cooking": (
        "How long do I roast {} together with {}?",
        "Suggest a dinner of {} and {} for four people",
        "My {} always comes out too dry, would {} help?",
        "Which herbs go with {}, and can I add {} as well?",
        "Turn leftover {} and some {} into soup",
    ),
    "travel": (
        "Plan three days around the {} near the {}",
        "Is the {} open in winter, and how far is it from the {}?",
        "What should I pack for a {} trip that ends at a {}",
        "Cheapest way from the {} to the {} on a Sunday",
        "We land at noon: is there time for the {} before the {} closes?",
    ),
}
WORDS = {
    "code": ("parser", "pointer", "regex", "thread", "array", "socket", "cache", "decorator"),
    "cooking": ("chicken", "pumpkin", "lentils", "salmon", "mushrooms", "rice", "cabbage", "beans"),
    "travel": ("museum", "harbour", "castle", "volcano", "monastery", "station", "lagoon", "market"),
}
N_PER_INTENT = 50


def _prompts() -> list[tuple[str, str]]:
    """Return (prompt, intent), the intents taking turns: 50 distinct prompts each."""
    rng = random.Random(7)
    each = []
    for intent in INTENTS:
        pairs = list(combinations(WORDS[intent], 2))  # the encoder does not see the order of words
        texts = [opening.format(*pair) for opening in OPENINGS[intent] for pair in pairs]
        each.append(rng.sample(texts, N_PER_INTENT))
    return [(text, intent) for texts in zip(*each, strict=True) for text, intent in zip(texts, INTENTS, strict=True)]


PROMPTS = _prompts()


def _scores() -> list[dict[str, float]]:
    """Return scores in which every model is best at its own intent, with a little noise."""
    rng = random.Random(3)
    return [
        {
            model: round(0.25 + 0.5 * (INTENTS.index(intent) == column) + 0.25 * rng.random(), 3)
            for column, model in enumerate(MODELS)
        }
        for _, intent in PROMPTS
    ]


SCORES = _scores()


@pytest.fixture(scope="session")
def encoder() -> OnnxEncoder:
    """The encoder that is shipped."""
    return OnnxEncoder.load("static")


@pytest.fixture(scope="session")
def full_encoder() -> OnnxEncoder:
    """The slower and better one that is shipped."""
    return OnnxEncoder.load("full")


@pytest.fixture(scope="session")
def artifact(encoder: OnnxEncoder) -> RouterArtifact:
    """An artifact of 150 scored prompts, every array written out by hand; its verdict is ROUTE."""
    return _handmade(encoder)


@pytest.fixture(scope="session")
def both_tiers(full_encoder: OnnxEncoder, encoder: OnnxEncoder) -> RouterArtifact:
    """The same with both encoders."""
    return _handmade(full_encoder, encoder)


def _handmade(*encoders: OnnxEncoder) -> RouterArtifact:
    texts = [text for text, _ in PROMPTS]
    features = np.stack([surface_features(text) for text in texts])
    codes = np.array([INTENTS.index(intent) for _, intent in PROMPTS], dtype=np.int32)
    scores = np.array([[one[model] for model in MODELS] for one in SCORES])
    intent_priors = np.stack([scores[codes == code].mean(axis=0) for code in range(len(INTENTS))])
    prices = {"coder-medium": 1.0, "chef-large": 8.0, "guide-small": 0.25}
    best = MODELS[int(np.argmax(scores.mean(axis=0)))]
    evidence = Evidence(
        kind="scores",
        h=np.ones(scores.shape, dtype=np.float32),
        g=(scores - intent_priors[codes]).astype(np.float32),
        intents=codes,
        prior=scores.mean(axis=0),
        intent_priors=intent_priors,
        variance=scores.var(axis=0),
        sizes=np.ones(len(scores), dtype=np.float32),
    )
    tiers = []
    for encoder in encoders:
        vectors = embed(encoder, texts)
        space = fit_space(vectors, features, 0.25)
        tiers.append(
            Tier(
                encoder=encoder,
                space=space,
                vectors=round_points(space.place_all(vectors, features)),
                evidence=evidence,
                settings=EstimatorSettings(n_neighbors=20, usual_similarity=0.5, far_temperature=0.2, guard_z=0.5),
                verdict=Verdict("ROUTE", f"ROUTE: +20.0 points over always using {best}.", best),
                strategies={"quality": None, "balanced": 0.01, "cheap": 0.001},
                report={"n_prompts": len(texts), "verdict": {"label": "ROUTE", "text": "made by hand"}},
            )
        )
    return RouterArtifact(
        models=MODELS,
        tiers=tuple(tiers),
        won=scores == scores.max(axis=1, keepdims=True),
        prompt_hashes=np.stack([np.frombuffer(bytes.fromhex(prompt_hash(text)), dtype=np.uint8) for text in texts]),
        intents=INTENTS,
        intents_from="given",
        intent_quality=intent_priors,
        template=Template(),
        profiles={
            name: ModelProfile(name, endpoints=(Endpoint("default", usd, 2 * usd),)) for name, usd in prices.items()
        },
        best_fixed=best,
        default_strategy="quality",
    )


@pytest.fixture(scope="session")
def scores_log() -> "PreferenceLog":
    """150 scored prompts of 3 intents, on each of which another of 3 models is best."""
    pytest.importorskip("sklearn")
    from training.comparisons import Comparison, PreferenceLog

    return PreferenceLog(
        comparisons=[
            Comparison(prompt=text, scores=scores, intent=intent)
            for (text, intent), scores in zip(PROMPTS, SCORES, strict=True)
        ]
    )


@pytest.fixture(scope="session")
def battles_log() -> "PreferenceLog":
    """The same prompts without intents, with one battle each: the prompt's own model usually wins."""
    pytest.importorskip("sklearn")
    from training.comparisons import Comparison, PreferenceLog

    rng = random.Random(5)
    rows = []
    for (text, _), scores in zip(PROMPTS, SCORES, strict=True):
        a, b = rng.sample(MODELS, 2)
        draw = rng.random()
        winner = (
            "tie" if draw < 0.1 else "both_bad" if draw < 0.15 else "model_a" if scores[a] > scores[b] else "model_b"
        )
        rows.append(Comparison(prompt=text, model_a=a, model_b=b, winner=winner))
    return PreferenceLog(comparisons=rows)


@pytest.fixture(scope="session")
def trained(scores_log: "PreferenceLog", encoder: OnnxEncoder) -> "tuple[RouterArtifact, Report]":
    """What ``train`` makes of the scored log, with the whole grid."""
    from training.build import train

    return train(scores_log, encoder=encoder, store_prompts="full")


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let ``train`` try a few configurations instead of hundreds; calling it sets constants of training.select."""
    select = pytest.importorskip("training.select")
    monkeypatch.setattr("training.build.FEATURE_WEIGHTS", (0.25,))

    def set_constants(**constants: object) -> None:
        for name, value in constants.items():
            monkeypatch.setattr(select, name, value)

    set_constants(
        N_NEIGHBORS=(30,), TEMPERATURES=(0.1,), FEATURE_WEIGHTS=(0.25,), SHRINKAGES=(1.0, 10.0), GUARDS=(1.0,)
    )
    return set_constants


@pytest.fixture
def with_verdict(artifact: RouterArtifact) -> Callable[[str], RouterArtifact]:
    """The artifact made by hand, with another verdict."""

    def changed(label: str) -> RouterArtifact:
        verdict = Verdict(label, f"{label}: always use it.", artifact.best_fixed)
        return replace(artifact, tiers=(replace(artifact.best, verdict=verdict),))

    return changed
