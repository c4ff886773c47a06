import pytest

from lib.data.watermarks import is_watermark, says_a_word


@pytest.mark.parametrize(
    "word",
    [
        *("memes.example", "@memes_example", "WWW.SITE.ORG", "https://a.b/c?d=1", "(site.com)"),
        *("site.co/a1b2", "my-site.net,", "sub.site.tv", "@names.", "http://a1.b2/c3d4"),
    ],
)
def test_marks_of_sites_and_accounts_are_known(word):
    assert is_watermark(word)


@pytest.mark.parametrize(
    "word",
    [
        *(
            "me@site.com",
            "end.Next",
            "e.g.",
            "U.S.A.",
            "3.5",
            "@",
            "h@te",
            "@r3",
            "@lot",
            "com",
            ".com",
            "hello",
        ),
        *("", "[OCR]", "<lang=en>", "wait...what", "a.m."),
    ],
)
def test_words_of_the_text_are_none(word):
    assert not is_watermark(word)


@pytest.mark.parametrize(
    "mark", ["@5ylum", "@sians!", "(@friends)", "@fr1ends", "kill.me", "Die.in"]
)
def test_a_mark_may_say_a_word(mark):
    assert is_watermark(mark) and says_a_word(mark)


@pytest.mark.parametrize("mark", ["@memepage1", "@memes_example", "imgflip.com", "site.co/a1b2"])
def test_other_marks_say_none(mark):
    assert is_watermark(mark) and not says_a_word(mark)
