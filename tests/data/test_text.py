import pytest

from lib.data.text import combined_text, is_marker, packed


def test_parts_stand_between_their_markers():
    text = combined_text(" one\ntwo ", "a dog", "de")
    assert text == "[OCR] one two [/OCR] [CAP] a dog [/CAP] <lang=de>"


def test_a_transcript_stands_before_the_language_and_only_where_there_is_one():
    spoken = combined_text("one", asr="said  so")
    assert spoken == "[OCR] one [/OCR] [CAP] [/CAP] [ASR] said so [/ASR] <lang=en>"
    assert combined_text("one", asr=" ") == combined_text("one")


@pytest.mark.parametrize("text", ["plain words", "", combined_text("one", asr="two")])
def test_packing_a_text_twice_changes_nothing(text):
    assert packed(packed(text)) == packed(text)


def test_markers_are_no_words():
    words = combined_text("[ocr]", "b", asr="c").split()
    assert [word for word in words if not is_marker(word)] == ["[ocr]", "b", "c"]
