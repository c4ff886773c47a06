# ruff: noqa: RUF001 (letters that look like others are what is tried here)
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import spaced_letters
from lib.data.confounders.design import generate
from lib.data.folding import TEXT_FOLDING, check_folding, folded
from lib.data.leetspeak import SIGNS
from lib.data.text import combined_text, is_marker, words_of

# What tricks are made of, so that random texts hold many of them.
ALPHABET = st.one_of(
    st.sampled_from("aeiouhtHATEIl0134578@$€!| .-_*"),
    st.sampled_from("аеорсвнкмтηωοιμ\u0301\u0336\u200b\u200d\ufe0fｈ𝐡ʜ🅷ﬁßİı한م"),
    st.characters(exclude_categories=["Cs"]),
)


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("уоu аrе lаtе", "you are late"),
        ("ѕсоре of the рау", "scope of the pay"),
        ("натe нατε", "hate hate"),
        ("ΙΤ ΙS Ιt", "IT IS It"),
        ("h\u200ba\u200dt\u2060e\ufeff y\u00adou\u202e", "hate you"),
        ("𝐡𝐚𝐭𝐞 ｈａｔｅ ʜᴀᴛᴇ 🅷🅰🆃🅴 ⓗⓐⓣⓔ", "hate hate hate HATE hate"),
        ("h̶a̶t̶e̶ y̷̧̛o̴͜u", "hate you"),
        ("h a t e you", "hate you"),
        ("i know I h a t e y o u", "i know I hate you"),
        ("you h 4 t e!", "you hate!"),
        ("h.a.t.e h-a-t-e h_a_t_e", "hate hate hate"),
        ("7h353 1d10t @r3 $tup1d", "these idiot are stupid"),
        ("h4te l0ve th3 wh0 n0 H4TE", "hate love the who no HATE"),
        ("ki11 wi11 a11 b00k", "kill will all book"),
        ("h@te k!ll girl5 ha5 wha7 0f", "hate kill girls has what of"),
        ("heIIo kiII", "hello kill"),
        ("hAtE yOuRs hIs", "hate yours his"),
        ("l@73 to", "late to"),
        ("KATİL1 K4TİL", "KATİLI KATİL"),
        ("you h a t e y o u r s e l f. now", "you hate yourself. now"),
        ("s p i t o n the v e m m o i d s", "spit on the vemmoids"),
        ("e v e r y v e m m o i d", "every vemmoid"),
        ("soooo HAAATE", "soo HATE"),
        ("youlook laetr than yesterady", "you look later than yesterday"),
        ("look at tihs www.site.com @memepage1", "look at this"),
    ],
)
def test_a_disguise_is_undone(disguised, plain):
    assert folded(disguised) == plain
    assert folded(combined_text(disguised)) == combined_text(plain)


@pytest.mark.parametrize(
    "text",
    [
        "you are late to every single family dinner",
        "YOU ARE LATE TO EVERY SINGLE FAMILY DINNER",
        "2nd 4th covid19 mp3 h2o 90s 5pm 100k $5k b2b 2pac gr8 3d",
        "in 2020 we sold 1000 of 3,500 at 24/7 for $5 or 50%",
        "mail me@site.com",
        "U.S.A. e.g. a.m. rock'n'roll mother-in-law x-ray f**k stop! really?! ...",
        "McIntosh iPhone OpenAI YouTube III KKK www #FamilyDinnerAtHome 4Retirees 4in1",
        "я люблю кот и IT-компания",
        "ΟΙ Έλληνες και το mp3",
        "оса рот",
        "مرحبا بالعالم",
        "می\u200cخواهم",
        "👨\u200d👩\u200d👧 ❤\ufe0f",
        "我们今天去北京",
        "café Việt Straße łódź",
        "COVİD19 covİd19 İ5 İstanbul ǅ5 ŉ5 ǰ5 ΑΣ5 ẞ5",
    ],
)
def test_what_is_no_disguise_stays(text):
    text = unicodedata.normalize("NFKC", text)
    assert folded(text) == text
    assert folded(combined_text(text)) == combined_text(text)


def test_the_generated_memes_stay():
    texts = [combined_text(meme.ocr) for meme in generate(300, seed=1)]
    assert [folded(text) for text in texts] == texts


@given(st.text(ALPHABET, max_size=60))
@settings(max_examples=400, deadline=None)
def test_folding_twice_changes_nothing(text):
    once = folded(text)
    assert folded(once) == once


@given(st.text(ALPHABET, max_size=30))
@settings(max_examples=100, deadline=None)
def test_markers_stay_in_their_places(text):
    words = " ".join(word for word in text.split() if not is_marker(word))
    shown = folded(combined_text(words, "a dog", "de"))
    assert shown.startswith("[OCR]")
    assert shown.endswith("[/OCR] [CAP] a dog [/CAP] <lang=de>")


@given(st.lists(st.integers(0, 10**6).map(str), min_size=1))
def test_numbers_stay_numbers(numbers):
    assert folded(" ".join(numbers)) == " ".join(numbers)


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=12), st.data())
def test_a_sign_between_letters_is_a_letter_again(word, data):
    place = data.draw(st.integers(1, len(word) - 2))
    sign = data.draw(st.sampled_from("034@$"))
    meant = word[:place] + SIGNS[sign] + word[place + 1 :]
    assert folded(word[:place] + sign + word[place + 1 :]) == folded(meant)


def test_a_model_of_before_is_shown_what_it_was_trained_on():
    text = "tihs is @memepage1 l0ve thankyou"
    assert folded(text, 1) == "tihs is @memepage1 love thankyou"
    assert folded(text, 2) == folded(text) == "this is love thank you"
    text = "3days of @5ylum die.in"
    assert folded(text, 2) == "days of"
    assert folded(text) == "3days of asylum die.in"


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("@5ylum @bu53r5 and an @b50lu73 joke", "asylum abusers and an absolute joke"),
        ("@nimals @sians @55h013", "animals asians asshoie"),
        ("kill.it @friends friends.com @1amamemer", "kill.it @friends friends.com"),
        ("0bama 1diot 5lam 1slam", "obama idiot slam islam"),
    ],
)
def test_a_word_is_not_lost_as_a_mark_or_a_number(disguised, plain):
    assert folded(disguised) == plain


@pytest.mark.parametrize(
    "text", ["3days 5dollars 7days", "1million 4white 3men in 1room", "100days 2nd 24hours"]
)
def test_a_number_before_a_word_stays(text):
    assert folded(text) == text


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("de", "die tiere sind nicht da weil es regnet"),
        ("fr", "vous etes dans votre maison comme moi"),
        ("it", "questi animali devono tornare"),
        ("id", "dari sini karena hujan"),
        ("hi-Latn", "hamare ghar"),
    ],
)
def test_words_of_other_languages_are_not_mended_as_english(lang, words):
    text = combined_text(words, lang=lang)
    assert folded(text) == text
    assert folded(text, version=3) != text


def test_tricks_are_undone_in_any_language_and_english_is_mended_in_its_own():
    assert words_of(folded(combined_text("h a l l o w e l t", lang="de"))) == "hallowelt"
    assert words_of(folded(combined_text("tihs is s\u043e\u043e g00d", lang="en-GB"))) == (
        words_of(folded("tihs is s\u043e\u043e g00d"))
    )
    assert folded("tihs is") == "this is"


@pytest.mark.parametrize("hidden", ["\u200d", "\ufe0f", "\u200c\U0001f3fb", "\u0301", "\u0336"])
def test_thousands_of_hidden_characters_take_no_longer_than_letters(hidden):
    # A pattern that starts again at each of them would take hours.
    found = folded("a " + 100_000 * hidden + " b")
    assert found.startswith("a") and found.endswith("b")


def test_an_unknown_version_is_refused_by_name():
    assert [check_folding(version, "x") for version in range(TEXT_FOLDING + 1)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"models/text_expert: text_folding is 99.*train the mod"):
        check_folding(99, "models/text_expert")


@pytest.mark.parametrize("word", ["@" * 20_000, "a" * 20_000, "xq" * 10_000, "h4te." * 4_000])
def test_what_is_no_word_for_its_length_is_left_as_it_is(word):
    # The patterns look through it again and again: the first would take a quarter of a minute.
    assert folded(f"monday {word} h4te") == f"monday {word} hate"


def test_more_letters_set_apart_than_memes_have_are_not_divided(monkeypatch):
    said = "youarelate" * 25
    row, words = " ".join(said), " ".join(["you are late"] * 25)
    assert folded(f"{row} so {row} now {row}") == f"{words} so {words} now {said}"
    monkeypatch.setattr(spaced_letters, "segmented", None)
    assert folded(f"so {' '.join(3 * said)}! now") == f"so {3 * said}! now"
