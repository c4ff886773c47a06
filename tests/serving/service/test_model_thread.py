import threading
import time
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from lib.serving.memes import Meme
from lib.serving.service.model_thread import ModelThread


def meme(text):
    return Meme(text, Image.new("RGB", (1, 1)), "given")


class Model:
    """Answers each meme with its text, and notes the batches."""

    def __init__(self):
        self.batches, self.open = [], threading.Event()
        self.open.set()

    def __call__(self, memes):
        self.open.wait(10)
        self.batches.append([m.text for m in memes])
        if any(m.text == "bad" for m in memes):
            raise RuntimeError("a bad meme")
        return [
            {"prob_hate": float("nan") if m.text == "nan" else 0.5, "text": m.text} for m in memes
        ]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def thread_of(model):
    """A running thread around the model; it is closed in the end."""
    running = []

    def start(max_batch=4, max_wait=0.0, coming=lambda: 0, seen=lambda *_: None):
        running.append(ModelThread(model, max_batch, max_wait, coming, seen))
        running[-1].start()
        return running[-1]

    yield start
    model.open.set()
    for thread in running:
        if thread.alive:
            thread.close()


def test_what_waits_is_judged_together_and_each_gets_its_own_answer(model, thread_of):
    seen = []
    thread = thread_of(seen=lambda n, seconds: seen.append((n, seconds >= 0)))
    model.open.clear()
    first = thread.submit(meme("0"))
    while not first.running():
        time.sleep(0.001)
    answers = [first, *(thread.submit(meme(str(n))) for n in range(1, 7))]
    model.open.set()
    assert [a.result(10)["text"] for a in answers] == list("0123456")
    assert model.batches == [["0"], ["1", "2", "3", "4"], ["5", "6"]]
    thread.close()
    assert seen == [(1, True), (4, True), (2, True)]


def test_a_bad_meme_does_not_fail_its_batch(model, thread_of):
    thread = thread_of()
    model.open.clear()
    held = thread.submit(meme("held"))
    while not held.running():
        time.sleep(0.001)
    good, bad, nan, last = (thread.submit(meme(text)) for text in ("good", "bad", "nan", "last"))
    model.open.set()
    assert good.result(10)["text"] == "good"
    assert last.result(10)["text"] == "last"
    with pytest.raises(RuntimeError, match="a bad meme"):
        bad.result(10)
    with pytest.raises(ArithmeticError, match="not a finite number"):
        nan.result(10)
    assert thread.alive


def test_who_is_gone_is_not_judged(model, thread_of):
    thread = thread_of()
    model.open.clear()
    held = thread.submit(meme("held"))
    while not held.running():
        time.sleep(0.001)
    gone, stays = thread.submit(meme("gone")), thread.submit(meme("stays"))
    assert gone.cancel()
    model.open.set()
    assert stays.result(10)["text"] == "stays"
    with pytest.raises(CancelledError):
        gone.result(10)
    assert model.batches == [["held"], ["stays"]]


def test_a_batch_waits_for_what_is_being_read_and_one_alone_does_not(model, thread_of):
    alone = thread_of(max_wait=60)
    assert alone.submit(meme("alone")).result(10)["text"] == "alone"
    reading = [2]
    thread = thread_of(max_batch=2, max_wait=60, coming=lambda: reading[0])
    first = thread.submit(meme("first"))
    time.sleep(0.05)
    assert not first.done()
    assert thread.submit(meme("second")).result(10)["text"] == "second"
    assert model.batches[1:] == [["first", "second"]]


def test_closing_finishes_what_was_submitted(model, thread_of):
    thread = thread_of()
    model.open.clear()
    answers = [thread.submit(meme(str(n))) for n in range(9)]
    threading.Timer(0.05, model.open.set).start()
    thread.close()
    assert [a.result(0)["text"] for a in answers] == list("012345678")
    assert not thread.alive
