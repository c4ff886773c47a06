import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.encoding import encode, encode_all
from lib.emotions.passes import all_logits, bfloat16_pass, by_number, by_tokens, eager_pass

TEXTS = ["thank you", "a far longer text, with many words in it!", "no", "oh no", "fine by me"] * 5


@pytest.fixture(scope="module")
def model(save_tiny_bert, tmp_path_factory):
    torch.manual_seed(0)
    return BERTEmotionClassifier(str(save_tiny_bert(tmp_path_factory.mktemp("backbone")))).eval()


def logits(model, passes):
    encoded = encode_all(model.tokenizer, TEXTS)
    batches = by_tokens([len(text["input_ids"]) for text in encoded], 60)
    return all_logits(model.tokenizer, encoded, batches, passes, len(model.names))


@given(st.lists(st.integers(2, 64), max_size=80), st.integers(1, 300))
def test_batches_hold_each_row_once_and_no_more_tokens_than_asked(lengths, most):
    for batches in (by_tokens(lengths, most), by_number(lengths, most)):
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in by_tokens(lengths, most):
        assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= most


def test_texts_of_one_length_are_not_padded_with_others():
    lengths = [5] * 40 + [9] * 40
    assert all(len({lengths[row] for row in batch}) == 1 for batch in by_tokens(lengths, 100))


def test_batches_of_like_length_give_each_text_its_own_logits(model):
    alone = np.vstack([model.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(logits(model, [eager_pass(model)]), alone, atol=1e-5)


def test_several_threads_give_the_same_numbers_and_leave_the_threads_as_they_were(model):
    before = torch.get_num_threads()
    run = eager_pass(model)
    np.testing.assert_array_equal(logits(model, [run] * 3), logits(model, [run]))
    assert torch.get_num_threads() == before


def test_no_pass_is_called_by_two_threads_at_a_time(model):
    run, inside = eager_pass(model), []

    def counted(ids, mask):
        inside.append(1)
        assert len(inside) == 1
        found = run(ids, mask)
        inside.pop()
        return found

    logits(model, [counted, run])


def test_an_error_in_a_thread_is_raised(model):
    def broken(ids, mask):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        logits(model, [broken, broken])


def test_half_precision_stays_near_single_precision_and_leaves_the_model(model):
    before = model.logits(TEXTS)
    half = logits(model, [bfloat16_pass(model)])
    assert half.dtype == np.float32
    assert 0 < np.abs(half - before).max() < 0.05
    np.testing.assert_array_equal(model.logits(TEXTS), before)


def test_one_call_of_the_tokenizer_equals_a_call_a_text(model):
    texts = [*TEXTS, "\U0001f602 so ^^ funny", "word " * 500, "\u0645\u0631\u062d\u0628\u0627"]
    assert encode_all(model.tokenizer, texts) == [encode(model.tokenizer, text) for text in texts]
    assert encode_all(model.tokenizer, []) == []
