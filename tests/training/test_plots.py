"""training/plots.py: every plot is drawn, also from names and numbers that are hard to draw."""

import builtins
import struct
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.errors import ConfigError
from router.types import Gain
from training.canvas import require_matplotlib
from training.findings import CostQuality, Findings, IntentLine, Line, Point, Setting, Share, Tally, TwoModels
from training.learning_curve import CurvePoint, LearningCurve, projection
from training.metrics import Measured, reliability, share_interval, strong_share_curve
from training.plots import draw_plots

NAMES = ("a$b$c_{d", "<b>bold</b> & more", "模型-7b", "x" * 80, "new\nline", "_hidden")


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def learning_curve(rows_needed: int | None) -> LearningCurve:
    points = tuple(CurvePoint(50 * 2**k, Gain(0.004 * k, 0.004 * k - 0.03, 0.004 * k + 0.03)) for k in range(4))
    return LearningCurve(points, 500, rows_needed, projection(points, 500, rows_needed, 0.01))


@pytest.fixture
def found() -> Findings:
    rng = np.random.default_rng(0)
    some = Measured(0.6, 0.5, 0.7)
    predicted = rng.random(300)
    calibration = reliability(predicted, (rng.random(300) < predicted).astype(float), np.arange(300))
    return Findings(
        lines=(Line("router", None, some, some, some, None),),
        cost_quality=CostQuality(
            settings=tuple(Setting(10.0**k, 0.001 * k, 0.4 + 0.04 * k) for k in range(1, 6)),
            models=tuple(Point(name, 0.001 * (2 + k), 0.4 + 0.02 * k) for k, name in enumerate(NAMES)),
            hull=((0.002, 0.4), (0.007, 0.5)),
            oracle=Point("oracle", 0.003, 0.9),
            router=Point("router", 0.005, 0.6),
            range_usd=(0.002, 0.007),
            aiq=some,
            zero_router_aiq=some,
            aiq_gain=some,
        ),
        two_models=TwoModels(
            NAMES[0], NAMES[1], strong_share_curve(rng.random(50), np.zeros(50), np.ones(50)), some, some, some
        ),
        intents=tuple(IntentLine(name, 12, some, some, some, 3.0, NAMES[0]) for name in NAMES),
        intents_from="log",
        reliability={"chosen model": calibration, "all models": calibration},
        shares=tuple(Share(name, k, share_interval(k, 15)) for k, name in enumerate(NAMES)),
        deviations=(Tally(None, 0, 0, 0, 0, None),),
        best=(),
        worst=(),
        n_trained_on=0,
        n_near=0,
        parts=(),
        learning_curve=learning_curve(8000),
    )


def test_every_plot_is_drawn(found: Findings) -> None:
    plots = draw_plots(found, NAMES[0])
    assert set(plots) == {
        "cost-quality.png",
        "two-models.png",
        "intents.png",
        "reliability.png",
        "shares.png",
        "learning-curve.png",
    }
    for png in plots.values():
        width, height = size(png)
        assert 900 < width < 1300 and 200 < height < 1500
    assert draw_plots(found, NAMES[0]) == plots


def test_what_there_is_nothing_to_say_about_is_not_drawn(found: Findings) -> None:
    bare = replace(found, cost_quality=None, two_models=None, intents=(), reliability={}, learning_curve=None)
    assert set(draw_plots(bare, NAMES[0])) == {"shares.png"}


@pytest.mark.parametrize("costs", [(0.0, 0.1, 5.0), (1e-7, 1e-4, 1e-2), (1.0, 1.0, 1.0 + 1e-9), (1.0, 1.5, 2.0)])
def test_costs_of_any_spread(found: Findings, costs: tuple[float, ...]) -> None:
    assert found.cost_quality is not None
    plane = replace(
        found.cost_quality,
        models=tuple(Point(f"m{k}", cost, 0.5 + 0.1 * k) for k, cost in enumerate(costs)),
        settings=tuple(Setting(1.0, cost, 0.6) for cost in costs),
        hull=tuple((cost, 0.5 + 0.1 * k) for k, cost in enumerate(costs)),
        oracle=None,
        router=Point("router", costs[1], 0.7),
        range_usd=(costs[0], costs[-1]),
    )
    size(
        draw_plots(replace(found, cost_quality=plane, two_models=None, intents=(), reliability={}), "m0")[
            "cost-quality.png"
        ]
    )


@pytest.mark.parametrize(
    "curve",
    [
        learning_curve(None),
        learning_curve(501),
        learning_curve(10**7),
        replace(learning_curve(8000), points=learning_curve(None).points[-1:], projection=None),
    ],
)
def test_learning_curves_of_any_reach(found: Findings, curve: LearningCurve) -> None:
    bare = replace(found, cost_quality=None, two_models=None, intents=(), reliability={}, learning_curve=curve)
    size(draw_plots(bare, "m0")["learning-curve.png"])


def test_many_models_at_one_place(found: Findings) -> None:
    assert found.cost_quality is not None
    crowd = tuple(Point(f"model-{k}", 0.004 + 1e-6 * k, 0.5 + 1e-4 * k) for k in range(30))
    plane = replace(found.cost_quality, models=crowd)
    size(
        draw_plots(replace(found, cost_quality=plane, two_models=None, intents=(), reliability={}), "m0")[
            "cost-quality.png"
        ]
    )


def test_more_rows_make_a_taller_plot_up_to_a_bound(found: Findings) -> None:
    bare = replace(found, cost_quality=None, two_models=None, reliability={})
    lines = tuple(replace(found.intents[0], intent=f"intent {k}") for k in range(200))
    few, bounded, many = (draw_plots(replace(bare, intents=lines[:n]), "m")["intents.png"] for n in (6, 30, 200))
    assert size(few)[1] < size(many)[1] and many == bounded


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError("no matplotlib", name="matplotlib")
        return real(name, *args, **kwargs)

    for module in [one for one in sys.modules if one.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"matplotlib is missing.*whichmodel\[train\]"):
        require_matplotlib()
