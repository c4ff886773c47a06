"""The page as a person meets it: in Chromium, with nobody to ask but the server."""

import json
from pathlib import Path

import httpx
import pytest
from PIL import Image

from lib.data.confounders.design import generate
from lib.serving.memes import MOST_TEXT
from lib.serving.page.answer import rounded

pytest.importorskip("rapidocr", reason="the extra ocr is not installed")


@pytest.fixture(scope="module")
def meme(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("meme") / "meme.jpg"
    generate(1, seed=3)[0].image().save(path, quality=95)
    return path


def number(page, kind: str) -> str:
    """A number of the scale's legend, as it stands there."""
    key = page.locator(f"#scale .legend span:has(.key.{kind})")
    return key.inner_text().split()[-1]


def test_a_meme_is_read_judged_edited_and_tried_at_another_threshold(
    opened, upload, meme, classifier
):
    page = opened()
    upload(page, meme)
    text = page.input_value("#text textarea")
    assert text.lower() == generate(1, seed=3)[0].ocr.lower()
    answer = classifier.predict(text, meme)
    assert number(page, "prob") == f"{answer['prob_hate']:.3f}"
    assert "Text read off the picture" in page.inner_text("#verdict")
    shown = page.locator("#bars td:last-child").all_inner_texts()
    views = [*answer["experts"].values(), answer["prob_hate"]]
    rests = [answer["prob_hate"], *answer["rests_on"].values()]
    assert shown == [f"{value:.2f}" for value in (*views, *rests)]

    page.fill("#text textarea", "monday <b>again</b>")
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('as typed')")
    edited = classifier.predict("monday <b>again</b>", meme)
    assert number(page, "prob") == f"{edited['prob_hate']:.3f}"
    assert page.locator(".meme-verdict").get_attribute("class").endswith(edited["decision"])

    threshold = edited["threshold"]
    assert page.input_value("#cut input[type=number]") == f"{rounded(threshold):g}"
    other = 0 if edited["label"] == 0 else 1
    page.fill("#cut input[type=number]", str(other))
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#trial').innerText.includes('other than')")
    assert number(page, "tried") == f"{other:.3f}"
    assert f"decision stays {edited['decision']}" in page.inner_text("#trial")


def test_what_cannot_be_judged_is_one_clear_line(opened, upload, meme, tmp_path):
    page = opened()
    (tmp_path / "rubbish.png").write_bytes(b"nothing like a picture")
    upload(page, tmp_path / "rubbish.png")
    fault = page.locator("#verdict [role=alert]").inner_text()
    assert fault.startswith("Picture: not a picture of a known format") and "\n" not in fault
    assert not page.locator("#cut").is_visible()

    page.fill("#text textarea", "x" * (MOST_TEXT + 1))
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('characters')")
    fault = page.locator("#verdict [role=alert]").inner_text()
    assert fault == "Text has 20,001 characters; at most 20,000 are taken"


def test_a_file_of_the_server_is_not_opened_by_its_name(page_url, meme):
    """Only what was uploaded, whatever path a client sends."""
    client = httpx.Client(timeout=30)
    config = client.get(f"{page_url}config").json()
    picture = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "picture")
    changes = [d for d in config["dependencies"] if [picture, "change"] in d["targets"]]
    reads = next(d["id"] for d in changes if d["backend_fn"])

    def asked(path, session):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, 0.5, "", None], "fn_index": reads, "session_hash": session}
        client.post(f"{page_url}gradio_api/queue/join", json=body)
        found = client.get(f"{page_url}gradio_api/queue/data", params={"session_hash": session})
        events = [json.loads(line[5:]) for line in found.text.splitlines() if line[:5] == "data:"]
        return next(event for event in events if event["msg"] == "process_completed")

    assert not asked(meme, "named")["success"]
    assert not asked("/etc/passwd", "system")["success"]
    sent = client.post(f"{page_url}gradio_api/upload", files={"files": meme.open("rb")})
    assert asked(sent.json()[0], "uploaded")["success"]


def test_the_address_without_a_path_leads_to_the_page(page_url):
    found = httpx.get(page_url.removesuffix("page/"))
    assert (found.status_code, found.headers["location"]) == (307, "/page/")


def test_a_phone_shows_all_of_it_and_an_example_is_a_meme(opened, upload):
    page = opened(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page.locator("#meme .gallery button, #meme .gallery-item").first.click()
    page.wait_for_selector("#verdict h2")
    assert page.input_value("#text textarea")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) < 200


def test_a_file_that_is_too_large_is_refused_by_the_page_and_by_the_server(
    chromium, page_url, tmp_path
):
    large = tmp_path / "large.png"
    Image.effect_noise((1200, 1200), 90).save(large)
    assert large.stat().st_size > 500_000
    # Gradio tells the console of it as well, so this is not `opened`.
    page = chromium.new_page()
    page.goto(page_url)
    page.wait_for_selector("#verdict p")
    page.set_input_files("#picture input[type=file]", large)
    page.get_by_text("maximum allowed size").wait_for()
    page.close()
    sent = httpx.post(
        f"{page_url}gradio_api/upload", files={"files": ("a.png", large.read_bytes())}
    )
    assert sent.status_code == 413


def test_a_text_cannot_be_typed_while_one_is_read_and_one_typed_before_is_kept(
    opened, upload, meme, classifier
):
    page = opened()
    page.set_input_files("#picture input[type=file]", meme)
    page.wait_for_selector("#text textarea:disabled")
    assert "being read" in page.get_attribute("#text textarea", "placeholder")
    page.wait_for_selector("#text textarea:enabled")
    read = page.input_value("#text textarea")
    assert read.lower() == generate(1, seed=3)[0].ocr.lower()

    page = opened()
    page.fill("#text textarea", "typed before")
    page.wait_for_selector("#verdict h2")
    page.set_input_files("#picture input[type=file]", meme)
    page.wait_for_selector("#again")
    page.wait_for_selector("#text textarea:enabled")
    page.wait_for_selector("#verdict h2")
    assert "as typed" in page.inner_text("#verdict")
    assert page.input_value("#text textarea") == "typed before"
    expected = classifier.predict("typed before", meme)["prob_hate"]
    assert number(page, "prob") == f"{expected:.3f}"
    page.click("#again")
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('read off')")
    assert page.input_value("#text textarea") == read


def test_a_number_that_is_none_or_off_the_scale_tries_the_nearest_threshold(
    opened, upload, meme, classifier
):
    page = opened()
    upload(page, meme)
    in_use = rounded(classifier.decision.thresholds["mm_fusion"])
    for typed, tried in (("2", 1), ("-1", 0), ("", in_use), ("0.5", 0.5)):
        page.fill("#cut input[type=number]", typed)
        page.wait_for_function(
            f"document.querySelector('#trial').innerText.startsWith('At {tried:.3f}')"
        )
    assert page.locator("#verdict h2").count() == 1


def test_an_answer_that_does_not_come_leaves_the_old_one_marked(opened, upload, meme):
    page = opened()
    upload(page, meme)
    page.wait_for_selector("#verdict:not(.earlier) h2")
    page.route("**/queue/join**", lambda route: None)
    page.fill("#text textarea", "another text")
    page.wait_for_selector("#verdict.earlier h2")
    page.unroute("**/queue/join**")
