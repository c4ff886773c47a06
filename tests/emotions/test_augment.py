import itertools

import numpy as np
import pytest

from lib.emotions.augment import LikeLengthsAnew, TrainingTexts, augmented, swapped_words
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.generated import generate

TEXT = "thank you so much for this wonderful recipe"


@pytest.fixture(scope="module")
def tokenizer(save_tiny_bert, tmp_path_factory):
    return BERTEmotionClassifier(str(save_tiny_bert(tmp_path_factory.mktemp("b")))).tokenizer


def test_a_share_of_the_texts_is_changed():
    changed = [augmented(TEXT, np.random.default_rng(i), 0.3) != TEXT for i in range(500)]
    assert 0.2 < np.mean(changed) < 0.4
    assert augmented(TEXT, np.random.default_rng(0), 0.0) == TEXT


def test_short_texts_stay_as_they_are():
    assert {augmented("so very sad", np.random.default_rng(i), 1.0) for i in range(50)} == {
        "so very sad"
    }


def test_most_words_survive():
    for i in range(100):
        kept = set(augmented(TEXT, np.random.default_rng(i), 1.0).split()) & set(TEXT.split())
        assert len(kept) >= 7


def test_swapping_keeps_every_word():
    text = swapped_words(TEXT, np.random.default_rng(1), 0.1)
    assert text != TEXT
    assert sorted(text.split()) == sorted(TEXT.split())


def test_every_epoch_words_a_text_anew_and_every_run_alike(tokenizer):
    data = generate(40, seed=0)
    texts = TrainingTexts(tokenizer, data, 1.0, seed=0)
    again = TrainingTexts(tokenizer, data, 1.0, seed=0)
    epochs = [[texts[epoch * 40 + row]["input_ids"] for row in range(40)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[1] == [again[40 + row]["input_ids"] for row in range(40)]
    np.testing.assert_array_equal(texts[40 + 3]["labels"], data.labels[3])


def test_without_augmentation_every_epoch_is_the_same(tokenizer):
    texts = TrainingTexts(tokenizer, generate(20, seed=0), 0.0, seed=0)
    assert all(texts[row]["input_ids"] == texts[60 + row]["input_ids"] for row in range(20))


def test_the_sampler_names_rows_and_epoch():
    sampler = LikeLengthsAnew(list(range(1, 21)), 4, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(20 * epoch, 20 * epoch + 20))
    assert len(list(itertools.islice(sampler, 4))) == 4
