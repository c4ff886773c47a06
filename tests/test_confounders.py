"""The generated benchmark: balanced, deterministic, without leaks, unsolved by one modality."""

import pickle

from lib.confounders import bounds, generate


def test_the_pilot_is_fifty_balanced_training_memes():
    examples = generate(50)
    assert len({e.id for e in examples}) == 50
    assert {e.split for e in examples} == {"train"}
    assert sum(e.labels["abuse_hate"] for e in examples) == 25
    assert {e.caption for e in examples} == {""}
    assert all(e.ocr and e.ocr == e.ocr.strip() and "|" not in e.ocr for e in examples)


def test_the_same_seed_draws_the_same_memes_and_another_seed_others():
    once, twice, other = generate(20, seed=3), generate(20, seed=3), generate(20, seed=4)
    assert [(e.id, e.ocr, e.labels, e.extra) for e in once] == [
        (e.id, e.ocr, e.labels, e.extra) for e in twice
    ]
    assert [e.ocr for e in once] != [e.ocr for e in other]
    assert once[7].image().tobytes() == twice[7].image().tobytes()
    assert once[7].image().tobytes() != other[7].image().tobytes()


def test_a_longer_run_begins_with_a_shorter_one():
    assert [(e.id, e.ocr) for e in generate(200)[:33]] == [(e.id, e.ocr) for e in generate(33)]


def test_a_meme_is_a_picklable_rgb_picture():
    example = generate(1)[0]
    image = pickle.loads(pickle.dumps(example.image))()
    assert image.mode == "RGB" and image.size == (384, 384)
    assert image.tobytes() == example.image().tobytes()


def test_bounds_of_whole_blocks_are_those_of_the_design():
    assert bounds(generate(200)) == {"text": 0.7, "image": 0.6, "both": 1.0}
