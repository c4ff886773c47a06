import asyncio
import json
import logging
import threading

import pytest

from lib.serving.service.judging import Judging
from lib.serving.service.logs import JsonLines
from lib.serving.service.settings import ServiceSettings
from tests.serving.bad_inputs import TEXT, noise, saved


class Slow:
    """A classifier that waits to be let on, and then answers as the real one, or breaks."""

    def __init__(self, classifier):
        self.real, self.on, self.asked = classifier, threading.Event(), threading.Event()
        self.decision, self.model = classifier.decision, classifier.model
        self.fault = None

    def judge(self, memes):
        self.asked.set()
        self.on.wait(20)
        if self.fault:
            raise self.fault
        return self.real.judge(memes)


@pytest.fixture
def slow(classifier):
    model = Slow(classifier)
    yield model
    model.on.set()


def test_more_than_fits_is_refused_at_once_and_let_in_again(client_of, slow):
    with client_of(classifier=slow, queue=2, max_items=2, retry_after=3) as client:
        answers = []

        def ask():
            answers.append(client.post("/predict_batch", json=[{"text": "a"}, {"text": "b"}]))

        asking = threading.Thread(target=ask)
        asking.start()
        assert slow.asked.wait(10)
        refused = client.post("/predict", json={"text": "c"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
        assert refused.json() == {"error": "too many memes are waiting; try again"}
        slow.on.set()
        asking.join()
        assert [a["text"] for a in answers[0].json()] == ["a", "b"]
        assert client.post("/predict", json={"text": "c"}).json()["text"] == "c"


def test_a_slow_model_is_a_504_and_holds_nothing(client_of, slow):
    with client_of(classifier=slow, request_timeout=0.2, queue=2, max_items=2) as client:
        for _ in range(3):
            found = client.post("/predict", json={"text": "a"})
            assert (found.status_code, found.json()) == (
                504,
                {"error": "no answer within 0.2 seconds"},
            )
        both = client.post("/predict_batch", json=[{"text": "a"}, {"text": 7}]).json()
        assert [item["status"] for item in both] == [504, 422]
        slow.on.set()
        while client.post("/predict", json={"text": "a"}).status_code == 504:
            pass
        assert client.post("/predict", json={"text": "a"}).json()["text"] == "a"


def test_a_model_that_breaks_is_a_500_without_its_words(client_of, slow, caplog):
    caplog.handler.setFormatter(JsonLines())
    slow.fault = RuntimeError(f"no room for '{TEXT}'")
    slow.on.set()
    with client_of(classifier=slow) as client, caplog.at_level(logging.INFO):
        found = client.post("/predict", json={"text": TEXT})
        assert found.status_code == 500
        assert found.json() == {"error": "judging this meme failed (RuntimeError)"}
        slow.fault = None
        assert client.post("/predict", json={"text": TEXT}).status_code == 200
    assert "RuntimeError" in caplog.text
    assert "fridge" not in caplog.text
    for line in caplog.text.splitlines():
        json.loads(line)


def test_what_is_no_number_is_no_answer(client_of, slow):
    slow.on.set()
    answer = {"prob_hate": 0.5, "experts": {"text_expert": float("nan")}}
    slow.judge = lambda memes: [answer] * len(memes)
    with client_of(classifier=slow) as client:
        found = client.post("/predict", json={"text": "a"})
    assert (found.status_code, "not a finite number" in found.json()["error"]) == (500, True)


def test_a_program_that_breaks_is_a_500_in_json(client_of, monkeypatch, caplog):
    def broken(found):
        raise KeyError(TEXT)

    with client_of() as client:
        monkeypatch.setattr("lib.serving.service.app.facts_of", broken)
        found = client.post("/predict", json={"text": "a"})
    assert found.status_code == 500
    assert found.json() == {"error": "something broke; it is in the service's log"}
    assert "fridge" not in found.text


def test_who_asks_from_a_thread_keeps_to_the_limits_and_is_counted(slow):
    counted, limits = [], ServiceSettings(max_text=10, queue=1, max_items=1)

    async def asked():
        judging = Judging(slow, limits, counted.extend)
        judging.start()
        first = asyncio.create_task(asyncio.to_thread(judging.ask, "monday", None))
        await asyncio.to_thread(slow.asked.wait, 20)
        with pytest.raises(TimeoutError, match="too many memes"):
            await asyncio.to_thread(judging.ask, "again", None)
        slow.on.set()
        answer = await first
        with pytest.raises(ValueError, match="at most 10"):
            await asyncio.to_thread(judging.ask, "x" * 11, None)
        await asyncio.to_thread(judging.close)
        return answer

    assert [asyncio.run(asked())] == counted


def test_lower_limits_are_kept(client_of, as_json):
    limits = {"max_pixels": 5000, "max_text": 10, "max_upload_mb": 0.05, "max_items": 2}
    with client_of(**limits) as client:
        small, large = saved(noise(50, 99), "JPEG"), saved(noise(51, 99), "JPEG")
        assert client.post("/predict", json=as_json("a", small)).status_code == 200
        found = client.post("/predict", json=as_json("a", large))
        assert found.json() == {"error": "picture: more than 5000 pixels; make it smaller"}
        found = client.post("/predict", json=as_json("x" * 11, None))
        assert found.json() == {"error": "text has 11 characters; at most 10 are taken"}
        found = client.post("/predict", files={"image": ("a", b"x" * 60_000)})
        assert found.status_code == 413
        assert found.json() == {"error": "the request is too large; at most 0.05 MB are taken"}
        assert 'path="/predict",status="413"' in client.get("/metrics").text
        assert client.post("/predict_batch", json=[{}] * 3).status_code == 422


def test_bodies_that_are_too_much_together_are_refused(client_of, as_json):
    with client_of(max_upload_mb=0.05, max_held_mb=0.05) as client:
        limits = client.app.middleware_stack
        while not hasattr(limits, "held"):
            limits = getattr(limits, "app", None) or limits._app
        assert client.post("/predict", json=as_json("a", None)).status_code == 200
        assert limits.held == 0
        limits.held = 49_990
        found = client.post("/predict", json=as_json("a" * 50, None))
        assert (found.status_code, "retry-after" in found.headers) == (503, True)
        assert limits.held == 49_990


def test_pictures_are_not_written_to_the_disk(client, picture, monkeypatch):
    import tempfile

    large = picture + bytes(3_000_000)
    monkeypatch.setattr(tempfile, "_TemporaryFileWrapper", None)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", None)
    found = client.post("/predict", data={"text": "a"}, files={"image": ("a.jpg", large)})
    assert found.status_code == 200
