import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.artifacts import fingerprint, read_json, write_csv, write_json
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import error_table, write_errors
from lib.decisions.policy import policy_table
from lib.decisions.policy_outcomes import judged
from lib.modeling.prediction_table import (
    models_of,
    predictions_to_fit,
    read_predictions,
    save_predictions,
)
from lib.report_page import contents
from lib.report_page.embedding import script_hash
from lib.report_page.page import BYTES, write_page
from lib.report_page.sections import table_html


@pytest.fixture
def text(run):
    return run.artifact(7, "report.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_and_runs_only_its_own_scripts(text):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    assert re.findall(r"'(sha256-[^']+)'", policy) == [script_hash(s) for s in scripts]
    assert len(scripts) == 2 and "unsafe-eval" not in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text.split("<body>")[0])
    assert not re.findall(r"<(?:link|iframe|object|embed)[^>]*https?:", text)


def test_the_same_run_writes_the_same_bytes(run, text):
    write_page(run)
    assert run.artifact(7, "report.html").read_text(encoding="utf-8") == text


def test_the_policy_s_promises_stand_beside_what_came_of_them_on_test(run, text):
    shown = text.split('id="table-held"')[1].split("</table>")[0]
    expected = judged(read_predictions(run, "test"), DecisionBundle.load(run), run.seed)
    cells = re.findall("<td>(.*)</td>", shown)
    assert cells[:: len(expected.columns)] == expected["side"].tolist()
    observed = cells[list(expected).index("observed") :: len(expected.columns)]
    assert observed == ["" if np.isnan(x) else f"{x:.3f}" for x in expected["observed"]]


def test_whole_numbers_are_written_whole_though_some_are_missing():
    table = pd.DataFrame({"memes_needed": [41.0, None], "rate": [0.5, None]})
    cells = re.findall("<td>(.*)</td>", table_html(table, "policy"))
    assert cells == ["41", "0.500", "", ""]


@pytest.fixture
def copy(run, tmp_path):
    """The same run in a folder of its own, to be changed."""
    shutil.copytree(run.root, tmp_path / "copy")
    return run.model_copy(update={"root": tmp_path / "copy"})


def test_what_is_not_there_is_named_with_its_command(copy, text):
    assert "modalities_full.csv is not there. It is written by:" in text
    copy.artifact(7, "robustness.csv").unlink()
    copy.artifact(7, "slices.csv").write_bytes(b"")
    shutil.rmtree(copy.shards)
    changed = write_page(copy).read_text(encoding="utf-8")
    assert "robustness_full.csv is not there" in changed
    assert "slices_full.csv cannot be read" in changed
    assert '"pictures":{}' in changed and '"pictures":{}' not in text


def test_tables_show_the_columns_that_there_are_escaped(text):
    assert "text: &lt;b&gt;typos&lt;/b&gt;" in text and "<b>typos" not in text
    assert "<th>severity</th>" in text
    assert text.index("The label stays") < text.index("The label may change")


def test_a_large_page_stays_small_and_says_what_it_carries(tmp_path, run, logits_frame, save_run):
    settings = run.model_copy(update={"root": tmp_path})
    save_run(settings, logits_frame, logits_frame(6_000, "test"))
    decision, frame = DecisionBundle.load(settings), read_predictions(settings, "test")
    texts = [f"[OCR] {'слово & <tag> ' * 30}{i} [/OCR]" for i in range(len(frame))]
    metas = [{"dataset": "one", "labels": {}, "lang": "en", "group": i} for i in frame["id"]]
    write_csv(settings.artifact(7, "errors.csv"), error_table(frame, texts, metas, decision))
    with pytest.warns(UserWarning, match="shows no label schema"):
        path = write_page(settings)
    assert BYTES * 0.8 < path.stat().st_size <= BYTES + 20_000 < 2_000_000


@pytest.mark.parametrize(
    "change",
    [lambda t: t.iloc[1:], lambda t: t.iloc[::-1], lambda t: t.drop(columns="id")],
    ids=["fewer", "another order", "no ids"],
)
def test_an_error_table_of_other_memes_is_refused(copy, change):
    path = copy.artifact(7, "errors.csv")
    write_csv(path, change(pd.read_csv(path, dtype=str, keep_default_na=False)))
    with pytest.raises(ValueError, match=r"errors_full\.csv is not of the saved predictions"):
        write_page(copy)


def test_models_that_may_have_seen_the_memes_are_named_at_the_top(copy, text):
    assert "Caution" not in text
    path = copy.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(path)
    frame.attrs = frame.attrs | {"trained_on_other_shards": ["mm_fusion"]}
    save_predictions(frame, path)
    with pytest.warns(UserWarning, match="mm_fusion learned from other shards"):
        DecisionBundle.fit(predictions_to_fit(copy), copy, 20).save(copy)
    write_errors(copy, DecisionBundle.load(copy))
    shown = write_page(copy).read_text(encoding="utf-8").split("<main>")[0]
    assert '<p class="note">Caution: mm_fusion learned from other shards' in shown


def test_predictions_of_other_models_are_refused(copy):
    path = copy.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(path)
    frame.attrs = {"models": dict.fromkeys(frame.attrs["models"], "other")}
    frame.to_parquet(path)
    with pytest.raises(ValueError, match=r"is of other models than .*decision_full\.json"):
        write_page(copy)


def test_a_decision_of_other_predictions_is_refused(copy):
    path = copy.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(path)
    save_predictions(frame.assign(mm_fusion_logit_1=frame["mm_fusion_logit_1"] + 1), path)
    with pytest.raises(ValueError, match=r"decision_full\.json was fitted on other pred.*--from 7"):
        write_page(copy)


def test_tables_of_a_decision_before_an_edit_by_hand_are_refused_until_written_again(copy):
    path = copy.artifact(7, "thresholds.json")
    cuts = json.loads(path.read_text())
    cuts["mm_fusion"]["abuse_hate"] = 0.9
    path.write_text(json.dumps(cuts))
    with pytest.raises(ValueError, match=r"errors_full\.csv is of another.*--from 7.*section 2"):
        write_page(copy)
    write_errors(copy, DecisionBundle.load(copy))
    assert '"threshold":0.9}' in write_page(copy).read_text(encoding="utf-8")


def data_of(page):
    """What the page's script reads."""
    text = page.read_text(encoding="utf-8").split('id="data"')[1]
    return json.loads(text[text.index(">") + 1 :].split("</script>")[0])


def predicted_anew(settings, change):
    """The page's data after the predictions were changed and all of Step 7 was written again."""
    path = settings.artifact(6, "predictions.parquet")
    frame = pd.read_parquet(path)
    save_predictions(change(frame), path)
    decision = replace(
        DecisionBundle.load(settings),
        fingerprints=models_of(frame) | {"predictions": fingerprint(path)},
    )
    decision.save(settings)
    write_errors(settings, decision)
    return data_of(write_page(settings))


def test_verdicts_outlive_other_predictions_of_the_same_memes_and_labels(copy):
    key = data_of(copy.artifact(7, "report.html"))["key"]

    def retrained(frame):
        return frame.assign(mm_fusion_logit_1=frame["mm_fusion_logit_1"] + 0.5)

    def relabelled(frame):
        frame.loc[(frame["split"] == "test") & (frame["id"] == "test5"), "label"] = 0
        return frame

    assert predicted_anew(copy, retrained)["key"] == key
    assert predicted_anew(copy, relabelled)["key"] != key


def test_verdicts_on_other_memes_are_kept_apart(copy, logits_frame, save_run, tmp_path):
    other = copy.model_copy(update={"root": tmp_path / "other"})
    save_run(other, logits_frame, logits_frame(46, "test"))
    frame = read_predictions(other, "test")
    metas = [{"dataset": "one", "labels": {}, "lang": "en", "group": i} for i in frame["id"]]
    table = error_table(frame, [""] * len(frame), metas, DecisionBundle.load(other))
    write_csv(other.artifact(7, "errors.csv"), table)
    with pytest.warns(UserWarning, match="shows no label schema"):
        key = data_of(write_page(other))["key"]
    assert key != data_of(copy.artifact(7, "report.html"))["key"]


def test_the_policy_shown_is_the_one_in_use(copy):
    file = copy.artifact(7, "calibration.json")
    write_json(file, read_json(file, "Step 7") | {"mm_fusion": 9.0})
    write_errors(copy, DecisionBundle.load(copy))
    cuts = policy_table(DecisionBundle.load(copy).policy)["judged_at"].dropna()
    policy = write_page(copy).read_text().split('id="table-policy"')[1].split("</table>")[0]
    assert len(cuts) and all(f"<td>{cut:.3f}</td>" in policy for cut in cuts)


def test_so_many_corrections_that_the_page_has_no_room_are_left_out_and_counted(copy, monkeypatch):
    found = data_of(write_page(copy))
    assert len(found["corrections"]) == 1 and found["corrections_left_out"] == 0
    monkeypatch.setattr(contents, "MOST_CORRECTIONS", 10)
    left_out = data_of(write_page(copy))
    assert left_out["corrections"] == [] and left_out["corrections_left_out"] == 1
    assert left_out["rows"] == found["rows"]


def test_memes_are_filtered_by_the_slices_of_the_run(copy):
    sliced = copy.model_copy(update={"slice_by": ["abuse_hate"]})
    write_errors(sliced, DecisionBundle.load(sliced))
    page = write_page(sliced).read_text(encoding="utf-8")
    lengths = "no words", "1 to 5 words", "6 to 10 words", "11 to 20 words", "over 20 words"
    for name, values in (("text length", lengths), ("abuse hate", ("0", "1"))):
        offered = json.loads(page.split(f'"name":"{name}","values":')[1].split("]")[0] + "]")
        assert offered == [value for value in values if value in offered] and len(offered) > 1


def test_shards_of_other_memes_are_refused(copy):
    for name in ("shards/test", "shards/train"):
        (copy.step3 / name).rename(copy.step3 / name.replace("/", "-"))
    (copy.step3 / "shards-train").rename(copy.step3 / "shards/test")
    with pytest.raises(ValueError, match="does not hold the memes of the predictions"):
        write_page(copy)


def test_what_step_7_has_not_written_yet_is_asked_for(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="--from 7"):
        write_page(run.model_copy(update={"root": tmp_path}))
