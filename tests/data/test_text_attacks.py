import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import text_attacks
from lib.data.folding import folded
from lib.data.text import combined_text, is_marker
from lib.data.text_attacks import HOMOGLYPHS, MARKS, MISREAD, NEIGHBOUR_KEYS, UNSEEN

TEXT = combined_text("you are late to every single family dinner", "a clock")
ATTACKS = [
    text_attacks.typos,
    text_attacks.misreadings,
    text_attacks.joined_words,
    text_attacks.homoglyphs,
    text_attacks.leetspeak,
    text_attacks.zero_width,
    text_attacks.spaced_letters,
    text_attacks.changed_case,
    text_attacks.lost_words,
]
WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9), max_size=12)


def attacked(attack, share=0.5, seed=0, text=TEXT):
    return attack(text, np.random.default_rng(seed), share)


def changed_words(text):
    pairs = zip(TEXT.split(), text.split(), strict=True)
    return [(old, new) for old, new in pairs if old != new]


@pytest.mark.parametrize("attack", [*ATTACKS, text_attacks.watermark])
def test_markers_stay_words_change_and_a_seed_gives_the_same_again(attack):
    found = attacked(attack, share=1)
    markers = [word for word in TEXT.split() if is_marker(word)]
    assert [word for word in found.split() if is_marker(word)] == markers
    assert found != TEXT
    assert attacked(attack, share=1) == found


@pytest.mark.parametrize("attack", [text_attacks.typos, text_attacks.homoglyphs])
def test_a_greater_share_hits_the_same_words_and_more(attack):
    light, medium, heavy = (dict(changed_words(attacked(attack, s))) for s in (0.01, 0.4, 1))
    assert len(light) == 1
    assert light.items() <= medium.items() <= heavy.items()
    assert len(light) < len(medium) < len(heavy)


@pytest.mark.parametrize("attack", ATTACKS)
@given(words=WORDS, share=st.sampled_from([0.1, 0.5, 1.0]))
def test_any_text_can_be_attacked(attack, words, share):
    text = combined_text(" ".join(words))
    found = attacked(attack, share, text=text)
    assert found.startswith("[OCR]") and found.endswith("[/OCR] [CAP] [/CAP] <lang=en>")


def test_typos_change_the_inside_of_longer_words():
    for seed in range(10):
        for old, new in changed_words(attacked(text_attacks.typos, 1, seed)):
            assert len(old) > 3 and abs(len(old) - len(new)) <= 1
            assert (old[0], old[-1]) == (new[0], new[-1])


def test_a_key_has_its_neighbours_on_the_keyboard():
    assert NEIGHBOUR_KEYS["q"] == "w" and NEIGHBOUR_KEYS["g"] == "fh" and NEIGHBOUR_KEYS["m"] == "n"


def test_a_misread_word_differs_by_look_alike_letters_alone():
    pairs = changed_words(attacked(text_attacks.misreadings, 1, seed=1))
    assert pairs
    for old, new in pairs:
        assert any(old.replace(seen, read, 1) == new for seen, read in MISREAD)


def test_joined_words_lose_spaces_alone():
    found = attacked(text_attacks.joined_words)
    assert found.replace(" ", "") == TEXT.replace(" ", "")
    assert len(found) < len(TEXT)


def test_homoglyphs_are_no_latin_letters_and_read_the_same():
    letters = "".join(HOMOGLYPHS.values())
    assert not re.search("[\0-\u024f]", letters)
    assert len(set(letters)) == len(letters)


def test_leetspeak_leaves_words_that_would_be_numbers():
    assert attacked(text_attacks.leetspeak, 1, text="so is the cat") == "so is 7h3 c@7"


def test_unseen_characters_add_to_the_letters():
    found = attacked(text_attacks.zero_width, 1)
    assert found != TEXT
    assert re.sub(f"[{UNSEEN}]", "", found) == TEXT


def test_a_watermark_is_read_with_the_overlaid_text():
    found = text_attacks.watermark(TEXT, np.random.default_rng(0), 2)
    assert found == TEXT.replace("dinner [/OCR]", f"dinner {MARKS[0]} {MARKS[1]} [/OCR]")


@pytest.mark.parametrize("attack", [text_attacks.homoglyphs, text_attacks.zero_width])
@given(words=WORDS)
def test_folding_undoes_a_disguise_of_letters(attack, words):
    text = combined_text("the " + " ".join(words) + " gold")
    assert folded(attacked(attack, 1, text=text)) == folded(text)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_folding_undoes_most_of_leetspeak(share):
    text = combined_text("nobody wants to see these horrible monsters around here anymore")
    assert folded(attacked(text_attacks.leetspeak, share, text=text)) == text
