import json

import numpy as np
import pytest

from lib.serving.histograms import LENGTH_EDGES, PROB_EDGES, Histograms

MODELS = {"mm_fusion": "f" * 16}


def answer(prob, text="monday again", decision="allow", label=0, text_from="given"):
    return {
        "prob_hate": prob,
        "text": text,
        "decision": decision,
        "label": label,
        "text_from": text_from,
    }


@pytest.fixture
def counted():
    found = Histograms(MODELS)
    found.add([answer(0.0), answer(1.0, "", "block", 1), answer(0.5, "x" * 90_000, "review")])
    found.add([answer(0.5, text_from="picture")])
    return found


def test_each_answer_counts_once_in_each_histogram(counted):
    assert counted.n == counted.prob_hate.sum() == counted.text_length.sum() == 4
    assert counted.prob_hate[[0, -1]].tolist() == [1, 1]
    assert counted.text_length[[0, -1]].tolist() == [1, 1]
    assert counted.words == {
        "decision": {"allow": 2, "review": 1, "block": 1},
        "label": {"0": 3, "1": 1},
        "text_from": {"given": 3, "picture": 1},
    }


def test_a_bin_holds_its_lower_edge():
    found = Histograms()
    found.add_columns(PROB_EDGES[:-1], LENGTH_EDGES[:-1][: len(PROB_EDGES)])
    assert found.prob_hate.tolist() == [1] * (len(PROB_EDGES) - 1)
    assert found.text_length.tolist() == [1] * (len(LENGTH_EDGES) - 1)


def test_what_is_written_is_read_back_and_holds_no_content(counted, tmp_path):
    counted.write(tmp_path / "h.json")
    assert "monday" not in (tmp_path / "h.json").read_text()
    read = Histograms.read(tmp_path / "h.json")
    assert (read.n, read.models, read.words) == (4, MODELS, counted.words)
    np.testing.assert_array_equal(read.prob_hate, counted.prob_hate)
    read.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "h.json").read_bytes()


def test_histograms_add_up_unless_they_are_of_different_models(counted):
    parts = [Histograms(MODELS), Histograms()]
    for part, prob in zip(parts, (0.2, 0.9), strict=True):
        part.add([answer(prob, decision="block", label=1)])
    both = counted + parts[0] + parts[1]
    assert (both.n, both.models, both.words["decision"]["block"]) == (6, MODELS, 3)
    assert counted.n == 4
    with pytest.raises(ValueError, match="different models"):
        counted + Histograms({"mm_fusion": "0" * 16})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("decision", None, "field 'decision' is missing"),
        ("prob_hate", {"edges": [0, 1], "counts": [4]}, "prob_hate.edges are not those"),
        ("text_length", {"edges": LENGTH_EDGES.tolist(), "counts": [1]}, "needs 90 numbers"),
        ("label", {"0": -1}, "label holds -1"),
        ("label", {"0": "many"}, "label holds 'many'"),
        (
            "prob_hate",
            {"edges": PROB_EDGES.tolist(), "counts": [10**30] * 202},
            "counts holds 1000",
        ),
        ("decision", {"allow": 1_000_000}, "decision counts 1,000,000 answers, prob_hate 4;"),
        ("label", {"0": 3, "1": 2}, "label counts 5 answers, prob_hate 4;"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_field(counted, tmp_path, field, value, said):
    counted.write(tmp_path / "h.json")
    content = json.loads((tmp_path / "h.json").read_text()) | {field: value}
    (tmp_path / "h.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said) as error:
        Histograms.read(tmp_path / "h.json")
    assert str(tmp_path / "h.json") in str(error.value)


def test_a_missing_file_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lib\.serving\.score"):
        Histograms.read(tmp_path / "gone.json")
