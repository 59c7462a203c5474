"""docs/encoders.md: its example makes an encoder of several scripts, which an artifact can be trained on and serve."""

import random
import re
from pathlib import Path

import pytest

from router.encoder import OnnxEncoder, check_canaries
from router.router import Router
from router.types import Policy
from training.build import train
from training.comparisons import Comparison, PreferenceLog

DOC = Path(__file__).parents[2] / "docs" / "encoders.md"
ENGLISH = ("soup", "bread", "loops", "castles", "rivers", "poems", "engines", "markets", "planets", "birds")
CHINESE = ("汤", "面包", "循环", "城堡", "河流", "诗歌", "发动机", "市场", "行星", "鸟类")
ASKED = (
    (ENGLISH, ("Tell me about {}", "Why do people like {}?", "Write a short text on {}", "How are {} made?")),
    (CHINESE, ("请告诉我关于{}的事情", "为什么人们喜欢{}？", "写一篇关于{}的短文", "{}是怎样形成的？")),
)
NEW = {
    "为什么人们喜欢唱歌和跑步？": "polyglot",
    "请写一篇关于雨天的短文": "polyglot",
    "Why do people like to sing?": "anglophone",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example of the documentation writes."""
    example = re.search(r"<!-- example.*?```python\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert example is not None
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(example[1], {})
    return folder / "my-encoder"


@pytest.fixture(scope="module")
def log() -> PreferenceLog:
    """80 prompts in two scripts; on Chinese the polyglot is better, on English and overall the anglophone is."""
    rng = random.Random(1)
    rows = []
    for chinese, (words, openings) in enumerate(ASKED):
        for opening in openings:
            for word in words:
                noise = 0.1 * rng.random()
                scores = {"polyglot": 0.4 + noise, "anglophone": 0.2 if chinese else 0.95 - noise}
                rows.append(Comparison(prompt=opening.format(word), scores=scores))
    return PreferenceLog(comparisons=rows)


def test_the_example_is_an_encoder(directory: Path) -> None:
    encoder = OnnxEncoder.load(directory)
    assert (encoder.settings.name, encoder.settings.dim) == ("characters-64", 64)
    assert len(encoder.settings.canaries) == 4 and check_canaries(encoder) < 1e-5
    for text in (*NEW, "Напиши цикл", "اكتب حلقة", "한국어로 써 주세요"):
        assert encoder.encode(text).unknown_share == 0
    assert encoder.encode("🤷🤷🤷").unknown_share == 1
    assert encoder.encode("a🤷b🤷").unknown_share == 0.5


def test_its_artifact_reads_what_the_shipped_encoder_cannot(
    directory: Path, log: PreferenceLog, tmp_path: Path
) -> None:
    artifact, report = train(log, encoder=directory)
    assert (report.best_fixed, report.gain.low > 0) == (
        "anglophone",
        True,
    ) and artifact.best.settings.max_unknown_share < 1
    artifact.write(tmp_path / "v1")
    router = Router.load(tmp_path / "v1")
    assert router.artifact.best.encoder.id == OnnxEncoder.load(directory).id
    for prompt, model in NEW.items():
        decision = router.route(prompt, Policy(route_anyway=True))
        assert (decision.model, decision.reason) == (model, "best")
        assert len(decision.neighbors) > 0
    assert router.route("🤷🤷🤷🤷", Policy(route_anyway=True)).reason == "unreadable"
    shipped = OnnxEncoder.load("static")
    assert shipped.encode(next(iter(NEW))).unknown_share > artifact.best.settings.max_unknown_share
