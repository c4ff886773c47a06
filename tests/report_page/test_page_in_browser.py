"""The page as a reviewer meets it: in Chromium, from disk, with the network off."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from lib.artifacts import fingerprint, write_csv
from lib.calibration import prob_hate
from lib.config import MODELS
from lib.data.corrections import CORRECTIONS, read_corrections
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import write_errors
from lib.decisions.policy_outcomes import workload
from lib.decisions.spreadsheets import for_spreadsheets
from lib.modeling.prediction_table import logits_of, models_of, read_predictions
from lib.report_page.page import write_page

pytestmark = pytest.mark.filterwarnings("ignore:the nearest training memes are left out")

# In conftest.py too, which tests cannot import.
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    ' "quoted" & \u202eright to left'
)
HOSTILE_ID = "<b id='x'>\"&#%,é"


@pytest.fixture
def report(run):
    return run.artifact(7, "report.html")


def numbers(page):
    found = page.locator("output").evaluate_all(
        "(shown) => Object.fromEntries(shown.map((each) => [each.id, each.dataset.value]))"
    )
    return {name: float(value) if value else None for name, value in found.items()}


def slide(page, step):
    page.locator("#cut").evaluate(
        "(range, step) => { range.value = step; range.dispatchEvent(new Event('input')) }", step
    )


def listed(page):
    """The ids in the list, over all its pages, in its order."""
    return page.evaluate(
        "jQuery('#list').DataTable().rows({search: 'applied', order: 'applied'}).data().toArray()"
        ".map((row) => JSON.parse(document.getElementById('data').textContent).rows.id[row])"
    )


def scikit_learn_s(prob, labels, cut):
    called = prob >= cut
    tn, fp, fn, tp = confusion_matrix(labels, called, labels=[0, 1]).ravel()
    return {
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "precision": precision_score(labels, called, zero_division=0),
        "recall": recall_score(labels, called),
        "f1": f1_score(labels, called),
        "macro_f1": f1_score(labels, called, average="macro", labels=[0, 1]),
    }


def test_numbers_at_ten_random_positions_are_scikit_learn_s(opened, report, run):
    page = opened(report)
    decision, frame = DecisionBundle.load(run), read_predictions(run, "test")
    steps = np.random.default_rng(0).integers(0, 1001, 10).tolist()
    for model in MODELS:
        page.select_option("#model", model)
        prob = prob_hate(logits_of(frame, model), decision.temperatures[model])
        for step in [None, *steps]:
            cut = decision.thresholds[model] if step is None else step / 1000
            if step is not None:
                slide(page, step)
            expected = scikit_learn_s(prob, frame["label"], cut)
            found = numbers(page)
            assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
            wrong = (prob >= cut) != frame["label"]
            assert set(listed(page)) == set(frame["id"][wrong])
            share, called = run.prevalence, prob >= cut
            hits = 1e4 * share * called[frame["label"] == 1].mean()
            alarms = 1e4 * (1 - share) * called[frame["label"] == 0].mean()
            assert found["flagged"] == pytest.approx(hits + alarms)
            assert found["missed"] == pytest.approx(1e4 * share - hits)
        page.click("#frozen")
        assert numbers(page) == pytest.approx(
            numbers(page) | scikit_learn_s(prob, frame["label"], decision.thresholds[model])
        )


def test_untouched_it_counts_with_the_exact_share_and_shows_p_as_the_error_table_rounds_it(
    opened, run, tmp_path
):
    def rarer(frame):
        frame.loc[(frame["split"] == "test") & (frame.index % 5 == 0), "label"] = 0

    settings = changed(run.model_copy(update={"prevalence": None}), tmp_path, rarer)
    page, frame = opened(write_page(settings)), read_predictions(settings, "test")
    decision = DecisionBundle.load(settings)
    share = frame["label"].mean()
    assert float(page.input_value("#prevalence")) == pytest.approx(100 * share, rel=1e-4)
    page.select_option("#kind", "all")
    page.select_option("#list_wrapper .dt-length select", "50")
    table = pd.read_csv(settings.artifact(7, "errors.csv"), dtype={"id": str}).set_index("id")
    for model in MODELS:
        page.select_option("#model", model)
        prob = prob_hate(logits_of(frame, model), decision.temperatures[model])
        called = prob >= decision.thresholds[model]
        found = numbers(page)
        assert found["flagged"] == pytest.approx(1e4 * called.mean(), abs=1e-6)
        missed = 1e4 * (~called & (frame["label"] == 1)).mean()
        assert found["missed"] == pytest.approx(missed, abs=1e-6)
        precision = precision_score(frame["label"], called)
        assert found["precision_there"] == pytest.approx(precision, abs=1e-6)
        cells = [page.locator(f"#list tbody td:nth-child({k})").all_inner_texts() for k in (5, 6)]
        rows = table.loc[listed(page)]
        p = rows[f"{model}_prob"].round(3)
        assert [float(shown) for shown in cells[0]] == p.tolist()
        off = [float(shown) for shown in cells[1]]
        assert off == pytest.approx((p - rows["label"]).abs().tolist(), abs=1e-9)
        assert off == sorted(off, reverse=True)
    page.fill("#prevalence", "50")
    hate = frame["label"] == 1
    expected = 1e4 * (called[hate].mean() + called[~hate].mean()) / 2
    assert numbers(page)["flagged"] == pytest.approx(expected, abs=1e-6)


def test_the_fit_split_has_numbers_of_its_own_and_the_policy_its_workload(opened, report, run):
    page = opened(report)
    decision = DecisionBundle.load(run)
    rows = page.locator("#sides tr").all_inner_texts()
    expected = workload(read_predictions(run, "test"), decision, run.prevalence)
    shown = [[int(n.replace(",", "")) for n in row.split("\t")[1:]] for row in rows]
    assert np.allclose(shown, expected[["memes", "hateful", "harmless"]], atol=0.51)
    page.select_option("#section", "val calibrate")
    assert numbers(page)["tp"] + numbers(page)["fn"] == 60
    page.fill("#prevalence", "50")
    assert numbers(page)["flagged"] != 0


def test_the_list_filters_sorts_and_turns_pages(opened, report):
    page = opened(report)
    errors = listed(page)
    for kind in ("FP", "FN"):
        page.select_option("#kind", kind)
        assert page.locator("#list tbody .kind").first.inner_text() == (
            "false positive" if kind == "FP" else "false negative"
        )
    page.select_option("#kind", "all")
    everything = listed(page)
    assert len(everything) == 46 and set(errors) < set(everything)
    page.fill("#search", "rare")
    assert listed(page) == ["test7"]
    page.fill("#search", "")
    page.select_option("#slice", label="dataset")
    page.select_option("#value", label="second")
    assert 10 < len(listed(page)) < 20
    page.select_option("#slice", "")
    before = page.locator("#list tbody tr td:nth-child(2)").first.inner_text()
    page.click("#list_wrapper .dt-paging >> text=2")
    page.wait_for_selector("#list_wrapper .dt-paging .current:has-text('2')")
    assert page.locator("#list tbody tr td:nth-child(2)").first.inner_text() != before
    page.click("#list thead th:has-text('p(hate)')")
    page.wait_for_selector("#list thead th[aria-sort=ascending]:has-text('p(hate)')")
    ascending = [float(p) for p in page.locator("#list tbody td:nth-child(5)").all_inner_texts()]
    assert ascending == sorted(ascending)


def test_pictures_are_veiled_until_asked_for_and_never_shown_by_hover(opened, report):
    page = opened(report)
    page.select_option("#kind", "all")
    button = page.locator("#list .picture").first
    veil = "(button) => getComputedStyle(button.querySelector('img')).filter"
    assert "blur" in button.evaluate(veil) and "grayscale(1)" in button.evaluate(veil)
    button.hover()
    assert "blur" in button.evaluate(veil)
    button.click()
    assert button.evaluate(veil) == "none"
    assert page.locator("#list .picture[aria-pressed=true]").count() == 1
    page.locator("#list tbody tr a").nth(3).click()
    large = page.locator("#meme .picture")
    assert "blur" in large.evaluate(veil)
    page.keyboard.press("r")
    assert large.evaluate(veil) == "none"
    page.keyboard.press("r")
    assert "blur" in large.evaluate(veil)
    page.keyboard.press("j")
    assert "blur" in page.locator("#meme .picture").evaluate(veil)


def test_verdicts_by_keyboard_are_kept_and_exported_as_step_3_reads_them(opened, report, tmp_path):
    page = opened(report)
    ids = listed(page)
    for key in ("d", "a", "u"):
        page.keyboard.press("j")
        page.keyboard.press(key)
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("e")
    page.keyboard.type('an insult, "plainly" said')
    page.keyboard.press("Escape")
    assert "1 agreed, 1 disagreed, 1 unsure" in page.inner_text("#progress")
    page.reload()
    assert "1 agreed, 1 disagreed, 1 unsure" in page.inner_text("#progress")
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "corrections.csv"
    (tmp_path / CORRECTIONS).parent.mkdir()
    download.value.save_as(tmp_path / CORRECTIONS)
    before, correction = read_corrections([tmp_path])
    assert (before.id, before.label, before.reason) == ("train3", 0, "made, before")
    rows = json.loads(page.locator("#data").evaluate("(data) => data.textContent"))["rows"]
    given = dict(zip(rows["id"], rows["label"], strict=True))
    assert (correction.id, correction.label) == (ids[0], 1 - given[ids[0]])
    assert correction.reason == 'an insult, "plainly" said'
    page.select_option("#reviewed", "yes")
    assert set(listed(page)) == set(ids[:3])
    with page.expect_download() as download:
        page.click("#export-all")
    assert len(json.loads(download.value.path().read_text())) == 3


def test_a_suspect_of_train_is_called_wrong_and_exported(opened, report, tmp_path):
    page = opened(report)
    page.click("text=Labels of train that look wrong")
    page.locator("#table-suspects button").first.click()
    page.locator("#table-suspects input").first.fill("harmless")
    with page.expect_download() as download:
        page.click("#export")
    (tmp_path / CORRECTIONS).parent.mkdir()
    download.value.save_as(tmp_path / CORRECTIONS)
    _, found = read_corrections([tmp_path])
    assert (found.id, found.label, found.reason) == ("007", 0, "harmless")


def test_a_suspect_s_picture_is_veiled_until_it_is_clicked(opened, report):
    page = opened(report)
    page.click("text=Labels of train that look wrong")
    unknown, suspect = page.locator("#table-suspects tbody tr").all()
    assert "no picture here" in unknown.inner_text()
    picture = suspect.locator(".picture")
    veil = "(button) => getComputedStyle(button.firstChild).filter"
    assert "blur" in picture.evaluate(veil) and "grayscale" in picture.evaluate(veil)
    assert picture.get_attribute("aria-label") == "Reveal the picture of train1"
    picture.click()
    assert picture.evaluate(veil) == "none"
    assert picture.get_attribute("aria-label") == "Veil the picture of train1"
    assert "blur" in page.locator("#list .picture").first.evaluate(veil)
    picture.click()
    assert "blur" in picture.evaluate(veil)


def test_verdicts_of_two_tabs_are_all_kept(opened, report):
    page = opened(report)
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#list tbody tr a")
    for tab, keys in ((other, "jjd"), (page, "ja")):
        for key in keys:
            tab.keyboard.press(key)
    for tab in (page, other):
        tab.wait_for_function("document.querySelector('#progress').textContent.startsWith('1 agr')")
        assert "1 agreed, 1 disagreed" in tab.inner_text("#progress")
    other.close()


def shown_as_pressed(page):
    return page.locator("#meme .verdict[aria-pressed=true]").evaluate_all(
        "(buttons) => buttons.map((button) => button.className.replace('verdict ', ''))"
    )


@pytest.fixture
def suspected(run, tmp_path):
    """The report of a run whose first suspects stand in the list of memes too, as in a pilot."""
    shutil.copytree(run.root, tmp_path / "suspected")
    settings = run.model_copy(update={"root": tmp_path / "suspected"})
    frame = read_predictions(settings, "test")
    suspects = frame.loc[frame["id"].isin(["test7", "test8"]), ["id", "label"]]
    write_csv(settings.artifact(7, "label_suspects.csv"), for_spreadsheets(suspects))
    return write_page(settings)


def test_a_verdict_shows_wherever_its_meme_does_and_is_not_taken_back_by_a_stale_button(
    opened, suspected
):
    page = opened(suspected, "#meme=test7")
    page.select_option("#kind", "all")
    page.fill("#search", "test7")
    page.keyboard.press("Escape")
    page.click("text=Labels of train that look wrong")
    suspect = page.locator("#table-suspects tbody tr", has_text="test7")
    wrong = suspect.locator("button", has_text="label is wrong")
    wrong.click()
    suspect.locator("input").fill("a quotation")
    assert shown_as_pressed(page) == ["disagree"]
    assert page.input_value("#reason") == "a quotation"
    assert page.locator("#list tr.judged").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert wrong.get_attribute("aria-pressed") == "false"
    assert "1 agreed, 0 disagreed" in page.inner_text("#progress")
    wrong.click()
    assert shown_as_pressed(page) == ["disagree"]
    assert "0 agreed, 1 disagreed" in page.inner_text("#progress")
    page.fill("#reason", "irony")
    assert suspect.locator("input").input_value() == "irony"
    page.click("#meme .verdict.disagree")
    assert wrong.get_attribute("aria-pressed") == "false"
    assert page.locator("#list tr.judged").count() == 0


def test_another_tab_shows_a_verdict_at_once_and_leaves_a_reason_that_is_being_typed(
    opened, suspected
):
    page = opened(suspected, "#meme=test7")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#meme .verdict")
    other.keyboard.press("d")
    other.fill("#reason", "a quotation")
    page.wait_for_selector("#meme .verdict.disagree[aria-pressed=true]")
    page.wait_for_function("document.getElementById('reason').value === 'a quotation'")
    page.fill("#reason", "iro")
    other.wait_for_function("Object.values(localStorage).some((kept) => kept.includes('\"iro\"'))")
    other.evaluate("document.activeElement.blur()")
    other.keyboard.press("u")
    page.wait_for_selector("#meme .verdict.unsure[aria-pressed=true]")
    other.fill("#reason", "other words")
    page.wait_for_function(
        "Object.values(localStorage).some((kept) => kept.includes('other words'))"
    )
    assert page.input_value("#reason") == "iro"
    assert "1 unsure" in page.inner_text("#progress")
    other.close()


KEY = "JSON.parse(document.getElementById('data').textContent).key"
SOUND = {"test8": {"verdict": "disagree", "reason": "irony", "label": 0}}


@pytest.mark.parametrize(
    "broken",
    [
        "null",
        {"test7": None},
        {"test7": 5},
        {"test7": {"verdict": "disagree"}},
        {"test7": {"verdict": "disagree", "reason": 5, "label": 0}},
        {"test7": {"verdict": None, "reason": "", "label": 0}},
        {"test7": {"verdict": "disagree", "reason": "", "label": "z"}},
    ],
    ids=repr,
)
def test_what_is_no_verdict_in_the_store_is_passed_over(opened, report, broken):
    page = opened(report)
    kept = broken if isinstance(broken, str) else json.dumps(broken | SOUND)
    page.evaluate(f"(kept) => localStorage.setItem({KEY}, kept)", kept)
    page.reload()
    page.wait_for_selector("#progress:not(:empty)")
    sound = 0 if broken == "null" else 1
    assert page.inner_text("#progress") == f"0 agreed, {sound} disagreed, 0 unsure"
    with page.expect_download() as download:
        page.click("#export")
    expected = ["id,label,reason", 'train3,0,"made, before"', *["test8,1,irony"][:sound]]
    assert download.value.path().read_text().splitlines() == expected


def test_a_verdict_on_a_label_that_was_corrected_since_is_not_shown_on_the_new_one(opened, report):
    page = opened(report)
    older = {"train1": {"verdict": "disagree", "reason": "irony", "label": 1}}
    page.evaluate(f"(kept) => localStorage.setItem({KEY}, kept)", json.dumps(older))
    page.reload()
    page.click("text=Labels of train that look wrong")
    wrong = page.locator("#table-suspects tr", has_text="train1").locator("button").first
    assert wrong.get_attribute("aria-pressed") == "false"
    with page.expect_download() as download:
        page.click("#export")
    assert "train1,0,irony" in download.value.path().read_text()
    wrong.click()
    assert wrong.get_attribute("aria-pressed") == "true"


def test_letters_typed_into_a_field_are_no_verdicts(opened, report):
    page = opened(report)
    page.keyboard.press("j")
    page.fill("#search", "")
    page.locator("#search").press_sequentially("add")
    page.locator(".guidelines summary").click()
    page.uncheck("#keys")
    page.keyboard.press("a")
    assert page.inner_text("#progress").startswith("0 agreed, 0 disagreed, 0 unsure")


def test_escape_leaves_a_field_though_no_meme_is_open(opened, report):
    page = opened(report)
    page.fill("#search", "words")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("j")
    assert page.locator("#meme h3").count() == 1


def test_a_slider_moves_by_arrows_and_lets_the_keys_of_review_through(opened, report):
    page = opened(report)
    page.focus("#cut")
    before = int(page.input_value("#cut"))
    page.keyboard.press("ArrowRight")
    assert int(page.input_value("#cut")) == before + 1
    page.keyboard.press("j")
    assert page.locator("#meme h3").count() == 1
    page.focus("#cut")
    page.keyboard.press("d")
    assert "1 disagreed" in page.inner_text("#progress")
    page.keyboard.press("ArrowLeft")
    assert int(page.input_value("#cut")) == before


def test_a_key_held_down_gives_one_verdict(opened, report):
    page = opened(report)
    page.keyboard.press("j")
    for _ in range(4):
        page.keyboard.down("d")
    page.keyboard.up("d")
    assert "1 disagreed" in page.inner_text("#progress")


def test_keys_judge_no_meme_that_a_broken_link_has_closed(opened, report):
    page = opened(report)
    page.keyboard.press("j")
    page.evaluate("location.hash = '#meme=nobody'")
    page.wait_for_selector("#meme >> text=No meme with the id nobody")
    for key in "due":
        page.keyboard.press(key)
    assert page.inner_text("#progress").startswith("0 agreed, 0 disagreed, 0 unsure")


def test_memes_that_leave_the_list_are_stepped_over_one_by_one(opened, report):
    page = opened(report)
    page.select_option("#kind", "all")
    page.select_option("#reviewed", "no")
    ids, met = listed(page), []
    for _ in range(23):
        page.keyboard.press("j")
        met.append(page.inner_text("#meme h3"))
        assert page.locator("#list tbody tr.current").inner_text().count(met[-1])
        page.keyboard.press("a")
    assert met == ids[:23]
    page.fill("#search", " ")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.inner_text("#meme h3") == ids[23]


def test_a_hostile_text_and_id_stay_text_and_can_be_linked_to(opened, report, tmp_path):
    page = opened(report)
    page.select_option("#kind", "all")
    page.fill("#search", "onerror")
    assert listed(page) == [HOSTILE_ID]
    assert HOSTILE in page.locator("#list tbody tr").inner_text()
    page.click("#list tbody tr a")
    assert page.inner_text("#meme .words") == HOSTILE
    fragment = page.evaluate("location.hash")
    page.keyboard.press("d")
    with page.expect_download() as download:
        page.click("#export")
    (tmp_path / CORRECTIONS).parent.mkdir()
    download.value.save_as(tmp_path / CORRECTIONS)
    assert [found.id for found in read_corrections([tmp_path])] == ["train3", HOSTILE_ID]
    again = opened(report, fragment)
    assert again.inner_text("#meme h3") == HOSTILE_ID
    for each in (page, again):
        assert each.evaluate("window.hacked") is None
    assert "No meme with the id nobody" in opened(report, "#meme=nobody").inner_text("#meme")


def buttons_in_sight(page):
    return page.locator("#meme .verdicts").evaluate(
        "(row) => { const { top, bottom } = row.getBoundingClientRect();"
        " return [top, bottom].every((y) => y >= 0 && y <= innerHeight) }"
    )


@pytest.mark.parametrize("width", [360, 820])
def test_a_meme_that_is_opened_above_the_list_shows_its_buttons(opened, report, width):
    phone = {"viewport": {"width": width, "height": 740}, "has_touch": True, "is_mobile": True}
    # Smooth scrolling would have to be waited for.
    page = opened(report, reduced_motion="reduce", **phone)
    page.select_option("#kind", "all")
    for row in (2, 8):
        page.locator("#list tbody td.kind").nth(row).tap()
        assert buttons_in_sight(page)
    page.locator("#meme .steps button").nth(1).tap()
    assert buttons_in_sight(page)
    page.locator("#list tr.current a").tap()
    assert buttons_in_sight(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(opened, report, scheme):
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    page = opened(report, **phone)
    page.keyboard.press("j")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#list tbody td:nth-child(2)").first.bounding_box()["width"] > 100
    paper = "getComputedStyle(document.body).backgroundColor"
    colors = [page.evaluate(paper)]
    page.click("#theme")
    colors.append(page.evaluate(paper))
    page.reload()
    assert page.evaluate(paper) == colors[1] != colors[0]


def test_paper_is_light_and_says_which_numbers_are_on_it(opened, report):
    page = opened(report, color_scheme="dark")
    assert not page.is_visible("#printed")
    page.select_option("#model", "text_expert")
    page.fill("#cut-number", "0.7")
    page.fill("#prevalence", "3")
    page.emulate_media(media="print")
    words = "text expert, threshold 0.700, share of hate 3%, memes of test"
    assert page.inner_text("#printed").casefold() == words
    styles = page.evaluate(
        "['body', 'header', '.scroll'].map((each) => document.querySelector(each))"
        ".map((each) => getComputedStyle(each))"
        ".map(({ backgroundColor, position, overflowX }) => [backgroundColor, position, overflowX])"
    )
    (paper, *_), (_, header, _), (*_, scroll) = styles
    assert (paper, header, scroll) == ("rgb(255, 255, 255)", "static", "visible")
    # A4, landscape, less its margins.
    page.set_viewport_size({"width": 1046, "height": 718})
    wider = "(tables) => tables.filter((each) => each.scrollWidth > each.clientWidth).length"
    assert page.locator(".scroll:visible").evaluate_all(wider) == 0
    page.emulate_media(media="screen")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper


def test_a_screen_reader_is_told_the_threshold_and_once_what_comes_of_it(opened, report):
    page = opened(report)
    page.evaluate(
        "window.told = []; new MutationObserver((changes) => window.told.push(...changes.map("
        "({ target }) => target.closest('[aria-live], [role=status], output')"
        "?.matches(':not([aria-live=off])') && target.id)))"
        ".observe(document.body, { childList: true, subtree: true })"
    )
    page.focus("#cut")
    page.keyboard.press("ArrowRight")
    cut = int(page.input_value("#cut")) / 1000
    assert page.get_attribute("#cut", "aria-valuetext") == f"{cut:.3f}"
    told = [each for each in page.evaluate("window.told") if each]
    assert told == ["summary"] and f"Threshold {cut}" in page.text_content("#summary")
    before = page.text_content("#summary")
    page.fill("#prevalence", "50")
    page.locator("#prevalence").press("Enter")
    assert page.text_content("#summary") != before


def test_a_step_of_the_slider_turns_no_page_back(opened, report):
    page = opened(report)
    page.select_option("#kind", "all")
    page.click("#list_wrapper .dt-paging >> text=3")
    page.wait_for_selector("#list_wrapper .dt-info:has-text('21 to 30')")
    page.focus("#cut")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#list_wrapper .dt-info").startswith("21 to 30")
    assert page.get_attribute("#list_info", "aria-live") == "off"
    page.select_option("#kind", "errors")
    assert page.inner_text("#list_wrapper .dt-info").startswith("1 to")
    assert page.get_attribute("#list_info", "aria-live") == "polite"


@pytest.mark.parametrize(("typed", "counted"), [("150", 100), ("-3", 0), ("7", 7)])
def test_the_share_of_hate_that_is_counted_with_is_the_one_shown(opened, report, typed, counted):
    page = opened(report)
    page.fill("#prevalence", typed)
    page.locator("#prevalence").press("Enter")
    assert float(page.input_value("#prevalence")) == counted
    slide(page, 0)
    assert numbers(page)["flagged"] == pytest.approx(1e4)
    slide(page, 1000)
    assert numbers(page)["missed"] == pytest.approx(100 * counted)


def test_it_says_that_labels_of_test_are_never_changed(opened, report):
    assert "flags labels of test and never changes them" in opened(report).inner_text("#kept")


def test_every_field_has_a_name_and_every_mark_its_numbers(opened, report):
    page = opened(report)
    page.keyboard.press("j")
    unnamed = (
        "[...document.querySelectorAll('input, select, button')].filter((field) => !(field.labels "
        "&& field.labels.length) && !field.getAttribute('aria-label') && !field.textContent.trim())"
        ".map((field) => field.outerHTML)"
    )
    assert page.evaluate(unnamed) == []
    marks = page.locator("#robustness [role=graphics-symbol]").evaluate_all(
        "(marks) => marks.map((mark) => mark.getAttribute('aria-label'))"
    )
    assert "text: leetspeak, fusion 2: macro-F1 -0.400" in marks


def changed(run, tmp_path, change):
    """The same run in a folder of its own, its predictions changed and its errors written anew."""
    shutil.copytree(run.root, tmp_path / "copy")
    settings = run.model_copy(update={"root": tmp_path / "copy"})
    path = settings.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(path)
    change(frame)
    frame.to_parquet(path, index=False)
    decision = replace(
        DecisionBundle.load(settings),
        fingerprints=models_of(frame) | {"predictions": fingerprint(path)},
    )
    decision.save(settings)
    write_errors(settings, decision)
    return settings


@pytest.mark.parametrize("case", ["no errors", "one class"])
def test_without_errors_or_with_one_class_the_page_is_sensible(opened, run, tmp_path, case):
    def without_errors(frame):
        of_test = frame["split"] == "test"
        if case == "one class":
            frame.loc[of_test, "label"] = 0
        margin = np.where(frame["label"] == 1, 8.0, -8.0)
        frame.loc[of_test, "mm_fusion_logit_1"] = margin[of_test]
        frame.loc[of_test, "mm_fusion_logit_0"] = -margin[of_test]

    page = opened(write_page(changed(run, tmp_path, without_errors)))
    assert listed(page) == []
    assert "errs on 0 of 46 memes" in page.inner_text("#shown")
    assert "No such meme" in page.inner_text("#list tbody")
    found = numbers(page)
    assert found["fp"] == found["fn"] == 0
    assert (found["flagged"] is None) == (case == "one class")
    page.select_option("#kind", "all")
    assert len(listed(page)) == 46
