"""An answer in words, on a scale and in bars."""

import dataclasses
import re

import pytest

from lib.decisions.policy import Policy
from lib.serving.page.answer import (
    bars_html,
    fault_html,
    rounded,
    scale_html,
    trial_html,
    verdict_html,
)

POLICY = dataclasses.replace(Policy.at_threshold(0.5), allow=0.2, block=0.9)
ANSWER = {
    "prob_hate": 0.4321,
    "label": 0,
    "threshold": 0.43214,
    "decision": "review",
    "experts": {"text_expert": 0.25, "vision_expert": 0.75},
    "rests_on": {"without_text": 0.1, "without_picture": 0.6},
    "text": "monday again",
    "text_from": "given",
}


def test_the_decision_stands_in_words_with_the_number_and_the_label():
    html = verdict_html(ANSWER, POLICY)
    assert "<h2>A person should look</h2>" in html and ">43%</b>" in html
    assert "threshold of 0.432" in html and "<b>not hate</b>" in html and "as typed" in html


@pytest.mark.parametrize(
    ("decision", "prob", "said"),
    [
        ("allow", 0.00002, ["Allow", "below 0.1%", "cut for allowing"]),
        ("block", 0.99996, ["Block", "over 99.9%", "cut for blocking"]),
        ("review", 0.995, ["99.5%", "neither allows nor blocks"]),
    ],
)
def test_each_decision_has_its_reason_and_no_probability_is_rounded_to_certainty(
    decision, prob, said
):
    html = verdict_html(ANSWER | {"decision": decision, "prob_hate": prob}, POLICY)
    assert [phrase for phrase in said if phrase not in html] == []


def test_where_nothing_is_certified_the_page_says_so():
    nothing = dataclasses.replace(POLICY, allow=None, block=None)
    assert "Nothing could be certified" in verdict_html(ANSWER, nothing)
    assert "allow nothing, block nothing" in scale_html(ANSWER, nothing, 0.5)
    assert re.findall(
        r'zone (\w+)" style="left:([\d.]+)%;\s*width:([\d.]+)%', scale_html(ANSWER, nothing, 0.5)
    ) == [("review", "0.00", "100.00")]


def test_the_scale_has_the_cuts_the_threshold_and_the_meme_at_their_places():
    html = scale_html(ANSWER, POLICY, 0.7)
    zones = re.findall(r'zone (\w+)" style="left:([\d.]+)%;width:([\d.]+)%', html)
    assert zones == [
        ("allow", "0.00", "20.00"),
        ("review", "20.00", "70.00"),
        ("block", "90.00", "10.00"),
    ]
    marks = dict(re.findall(r'mark (\w+)" style="left:([\d.]+)%', html))
    assert marks == {"prob": "43.21", "threshold": "43.21", "tried": "70.00"}
    assert (
        'aria-label="Scale from 0 to 1: this meme 0.432, threshold 0.432, tried 0.700; '
        'policy: allow below 0.200, block from 0.900"' in html
    )


@pytest.mark.parametrize(
    ("prob", "said"),
    [
        (0.183, "this meme 0.183, threshold 0.432; policy: allow below 0.185, block from 0.900"),
        (
            0.18492,
            "this meme 0.1849, threshold 0.4321; policy: allow below 0.1850, block from 0.9000",
        ),
        (0.184975, "this meme 0.185, threshold 0.432; policy: allow below 0.185, block from"),
    ],
)
def test_the_cuts_have_as_many_digits_as_tell_them_from_the_probability(prob, said):
    policy = dataclasses.replace(POLICY, allow=0.184975)
    assert said in scale_html(ANSWER | {"prob_hate": prob}, policy, 0.432)


def test_the_slider_at_rest_stands_for_the_exact_threshold():
    cut = rounded(ANSWER["threshold"])
    assert "not hate</b>, the same as" in trial_html(ANSWER, cut)
    assert "tried" not in scale_html(ANSWER, POLICY, cut)
    assert "hate or abuse</b>, other than" in trial_html(ANSWER, 0.3)
    assert "decision stays <b>review" in trial_html(ANSWER, 0.3)


def test_the_bars_are_as_long_as_the_probabilities():
    html = bars_html(ANSWER)
    assert re.findall(r"width:([\d.]+)%", html) == ["25.0", "75.0", "43.2", "43.2", "10.0", "60.0"]


def test_what_a_fault_says_is_text_and_no_html():
    assert "<img" not in fault_html("<img src=x>: no such file")
