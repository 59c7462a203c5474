"""benchmarks/encoder_*.py: scripts, folding rules, intervals, and vectors of TF-IDF; texts cut where a token ends."""

import numpy as np
import pytest
from encoder_inputs import FOLDINGS, pasted
from encoder_intents import Asked, Labelled, accuracy, ask_cross_fitted, paired_difference, script_of
from encoder_zoo import TfIdf, cut_by, vectors_of
from intent_tuning import row_shares
from numpy.testing import assert_allclose
from prompt_mix import texts_of_length
from tokenizers import Tokenizer

from router.encoder import OnnxEncoder

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "three"},
]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Sort this list, please: 3, 1, 2", "Latin, ASCII"),
        ("1 + 1 = ?", "Latin, ASCII"),
        ("Übersetze das ins Englische", "Latin, beyond ASCII"),
        ("把这句话翻译成英文", "CJK"),
        ("これを翻訳して", "CJK"),
        ("이 문장을 번역해 줘", "CJK"),
        ("Переведи это предложение", "Cyrillic"),
        ("ترجم هذه الجملة", "Arabic"),
        ("Μετάφρασε αυτό", "other"),
        ("Translate: 今天天气很好", "CJK"),  # a fifth of the letters is enough
        ("What does the Greek letter π stand for in this long sentence?", "Latin, ASCII"),
    ],
)
def test_script(text: str, script: str) -> None:
    assert script_of(text) == script


def test_folding_rules() -> None:
    assert {name: fold(CHAT) for name, fold in FOLDINGS.items()} == {
        "all user turns": "one\n\ntwo\n\nthree",
        "opener and latest": "one\n\nthree",
        "system, opener and latest": "Be brief.\n\none\n\nthree",
        "latest only": "three",
    }


def test_a_single_turn_is_folded_to_itself() -> None:
    assert {fold(CHAT[1:2]) for fold in FOLDINGS.values()} == {"one"}


def test_accuracy_has_wilsons_interval_and_counts_groups() -> None:
    asked = Asked(np.array(["a", "b", "c", "c"]), np.array(["a", "a", "a", "c"]))
    found = accuracy(asked)
    assert (found["value"], found["n"]) == (0.5, 4)
    # Wilson (1927) for 2 of 4.
    assert found["low"] == pytest.approx(0.150, abs=1e-3)
    assert found["high"] == pytest.approx(0.850, abs=1e-3)
    assert accuracy(asked, {"a": "x", "b": "x", "c": "c"})["value"] == 0.75


def test_paired_difference_covers_what_is_there() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 500)) < [[0.7], [0.5]]).astype(float)
    found = paired_difference(a, b)
    assert found["low"] < 0.2 < found["high"]
    assert paired_difference(a, a)["high"] == 0.0


def test_tf_idf_tells_words_apart() -> None:
    words = {"code": "sql query table", "writing": "poem rhyme stanza"}
    texts = [f"{about} {about[0]}{at}" for about in words.values() for at in range(20)]
    encoder = TfIdf(texts)
    vectors = vectors_of(encoder, [*texts, "nothing known"])
    assert vectors.shape == (41, encoder.settings.dim)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert_allclose(encoder.encode(texts[0]).vector, vectors[0], atol=1e-6)
    rows = Labelled(texts, ["code"] * 20 + ["writing"] * 20, [None] * 40)
    assert ask_cross_fitted(encoder, rows).correct.mean() == 1.0


def test_pasted_prompts_differ_at_one_end_alone() -> None:
    queries = Labelled(["do this", "do that", "x" * 1000], ["a", "b", "c"], [None] * 3)
    assert pasted(queries, ["BODY"], "start").texts == ["do this\n\nBODY", "do that\n\nBODY"]
    assert pasted(queries, ["BODY"], "end").texts == ["BODY\n\ndo this", "BODY\n\ndo that"]
    assert pasted(queries, ["BODY"], "alone").names == ["a", "b"]


def test_truncation_is_replaced(encoder: OnnxEncoder) -> None:
    text = "first " * 300 + "last " * 300
    first, last = (cut_by(encoder, one).token_ids(text) for one in ("tail", "head"))
    assert set(first) == set(encoder.token_ids("first"))
    assert set(last) == set(encoder.token_ids("last"))


def test_texts_are_cut_to_whole_tokens(encoder: OnnxEncoder) -> None:
    tokenizer = Tokenizer.from_buffer(encoder.files["tokenizer.json"])
    (cut,) = texts_of_length(["one two three four five", "short"], tokenizer, 4)
    assert cut == "one two three four"


def test_row_shares() -> None:
    shares = row_shares(np.array(["a", "a", "b"]), np.array(["a", "b", "b"]), ["a", "b", "c"])
    assert_allclose(shares, [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
