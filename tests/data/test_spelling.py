import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import spelling
from lib.data.confounders.design import generate
from lib.data.english import FREQUENT, known_words, nearest_words, segmented
from lib.data.spelling import respelt

FREQUENT_WORDS = sorted(w for w, n in known_words().items() if n >= FREQUENT and len(w) > 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tihs", "this"),
        ("taugth", "taught"),
        ("famliy.", "family."),
        ("FAMLIY!", "FAMILY!"),
        ("peopel", "people"),
        ("thoughtof", "thought of"),
        ("ThankYou", "Thank You"),
        ("STEPOUTSIDE,", "STEP OUTSIDE,"),
        ("lookslikethis", "looks like this"),
    ],
)
def test_an_accident_is_undone(written, meant):
    assert respelt(written) == meant


@pytest.mark.parametrize(
    "word",
    [
        *("family", "therapist", "toilet", "into", "cannot", "without"),  # words of two words
        *("Rihana", "McIntosh", "vemmoid", "yiblings", "hrtsk"),  # names, invented, no word near
        *("teh", "omg", "covid19", "don't", "a.m.", "x", "", "...", "[OCR]", "<lang=en>"),
        *("straße", "łódź", "люблю", "我们"),
    ],
)
def test_what_is_no_accident_stays(word):
    assert respelt(word) == word


@pytest.mark.parametrize("word", ["qxzj" * 40, "monday" * 4, "mondayqx", "qxmonday", "monqxday"])
def test_what_no_three_frequent_words_make_up_is_not_looked_into(word, monkeypatch):
    monkeypatch.setattr(spelling, "segmented", None)
    assert respelt(word) == word
    assert respelt("tihs") == "this"


@given(st.lists(st.sampled_from(FREQUENT_WORDS), min_size=2, max_size=3))
def test_what_three_frequent_words_make_up_is_looked_into(words):
    assert spelling._may_be_parted("".join(words))


def test_no_word_of_the_generated_memes_changes():
    words = {word for meme in generate(300, seed=2) for word in meme.ocr.split()}
    assert {word for word in words if respelt(word) != word} == set()


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=14))
def test_what_comes_out_are_known_words_or_what_went_in(word):
    out = respelt(word)
    assert out == word or all(piece in known_words() for piece in out.split())
    assert " ".join(map(respelt, out.split())) == out


@given(st.sampled_from(sorted(w for w, n in known_words().items() if n >= FREQUENT)))
def test_a_frequent_word_is_nearest_to_itself(word):
    assert word in dict(nearest_words(word))
    assert segmented(word) == [word] or "".join(segmented(word)) == word
