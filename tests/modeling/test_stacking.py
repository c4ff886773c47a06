import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from lib.modeling.stacking import NEIGHBOURS, TEMPERATURE, Neighbours, Stack


def memes(n, seed=0, width=6):
    rng = torch.Generator().manual_seed(seed)
    text, vision = (torch.randn(n, width, generator=rng) for _ in range(2))
    return text, vision, (text[:, 0] > 0).long()


def neighbours(n=80, room=None):
    text, vision, labels = memes(n)
    kept = Neighbours(room or n, text.shape[1], vision.shape[1])
    kept.keep(text, vision, labels)
    return kept


def vote_by_hand(banks, labels, query, skip=()):
    """The definition, meme by meme: the cosine of joined halves is the mean of their cosines."""
    cosine = np.zeros(len(labels))
    for bank, own in zip(banks, query, strict=True):
        mean = bank.mean(0)
        unit = [(x - mean) / np.linalg.norm(x - mean) for x in (*bank, own)]
        cosine += np.array([unit[-1] @ other for other in unit[:-1]]) / 2
    rows = [row for row in np.argsort(-cosine, kind="stable") if row not in skip][:NEIGHBOURS]
    return softmax(cosine[rows] / TEMPERATURE) @ labels[rows]


def test_a_vote_is_the_weighted_share_of_hate_among_the_nearest():
    text, vision, labels = memes(80)
    other = memes(5, seed=1)
    found = neighbours()(other[0], other[1])
    banks = (text.numpy(), vision.numpy())
    expected = [
        vote_by_hand(banks, labels.numpy(), query)
        for query in zip(other[0].numpy(), other[1].numpy(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_meme_and_its_group_have_no_vote_on_it():
    text, vision, labels = memes(80)
    groups = ["pair", "pair", *(f"alone {row}" for row in range(78))]
    found = neighbours()(text, vision, groups)
    query = (text[0].numpy(), vision[0].numpy())
    expected = vote_by_hand((text.numpy(), vision.numpy()), labels.numpy(), query, skip=(0, 1))
    assert found[0].item() == pytest.approx(expected, abs=1e-5)


def test_where_only_kin_could_vote_it_is_the_share_of_hate():
    text, vision, labels = memes(80)
    found = neighbours()(text, vision, ["one template"] * 79 + ["another"])
    assert found[:79].tolist() != pytest.approx([labels.float().mean().item()] * 79)
    alone = neighbours()(text, vision, ["one template"] * 80)
    assert alone.tolist() == pytest.approx([labels.float().mean().item()] * 80)


def test_fewer_memes_than_neighbours_all_vote():
    text, vision, labels = memes(4)
    kept = Neighbours(4, 6, 6)
    kept.keep(text, vision, labels)
    votes = kept(text, vision)
    assert votes.shape == (4,)
    assert ((votes >= 0) & (votes <= 1)).all()


def test_with_room_for_fewer_every_so_many_vote():
    text, vision, labels = memes(80)
    some = neighbours(room=40)
    alone = Neighbours(40, 6, 6)
    alone.keep(text[::2], vision[::2], labels[::2])
    queries = memes(7, seed=3)
    assert torch.equal(some(queries[0], queries[1]), alone(queries[0], queries[1]))
    # A meme that was not kept is voted on too, without its kin among those that were.
    groups = ["pair", "pair", *(f"alone {row}" for row in range(78))]
    found = some(text, vision, groups)
    assert found.shape == (80,)
    banks = (text[::2].numpy(), vision[::2].numpy())
    query = (text[1].numpy(), vision[1].numpy())
    expected = vote_by_hand(banks, labels[::2].numpy(), query, skip=(0,))
    assert found[1].item() == pytest.approx(expected, abs=1e-5)


def test_votes_come_back_with_the_weights():
    kept, back = neighbours(), Neighbours(80, 6, 6)
    back.load_state_dict(kept.state_dict())
    text, vision, _ = memes(7, seed=3)
    assert torch.equal(kept(text, vision), back(text, vision))


def test_a_stack_is_logistic_regression_on_standardised_margins():
    rng = torch.Generator().manual_seed(0)
    logits, number = torch.randn(200, 2, generator=rng), torch.rand(200, generator=rng)
    labels = (logits[:, 1] - logits[:, 0] + torch.randn(200, generator=rng) > 0).long()
    stack = Stack(2)
    stack.fit(labels, logits, number)
    columns = np.column_stack([(logits[:, 1] - logits[:, 0]).numpy(), number.numpy()])
    columns = (columns - columns.mean(0)) / columns.std(0, ddof=1)
    expected = LogisticRegression().fit(columns, labels).predict_proba(columns)[:, 1]
    found = torch.softmax(stack(logits, number), dim=1)[:, 1]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_of_one_class_a_stack_knows_that_it_is_the_one():
    stack = Stack(1)
    stack.fit(torch.ones(8, dtype=torch.long), torch.randn(8, 2))
    logits = stack(torch.tensor([[5.0, -5.0], [-5.0, 5.0]]))
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).detach(), np.log(9), rtol=1e-6)


def test_a_score_that_is_the_same_in_all_training_memes_does_not_explode_later():
    margin = torch.randn(50, generator=torch.Generator().manual_seed(0))
    stack = Stack(2)
    stack.fit((margin > 0).long(), margin, torch.full((50,), 0.3))
    assert stack.std[1] == 1
    usual, other = stack(margin, torch.full((50,), 0.3)), stack(margin, torch.full((50,), 0.31))
    torch.testing.assert_close(usual, other, atol=0.05, rtol=0)


def test_text_and_picture_add_their_halves_to_the_cosine():
    torch.manual_seed(0)
    text, vision, labels = torch.randn(20, 3), torch.randn(20, 5), torch.ones(20)
    neighbours = Neighbours(20, 3, 5)
    neighbours.keep(text, vision, labels)
    new = torch.randn(4, 3), torch.randn(4, 5)
    found = neighbours.text_cosine(new[0]) + neighbours.vision_cosine(new[1])
    halves = [
        cosine_similarity((mine - kept.mean(0)).numpy(), (kept - kept.mean(0)).numpy())
        for mine, kept in zip(new, (text, vision), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), sum(halves) / 2, atol=1e-6)
    torch.testing.assert_close(neighbours.vote(found), neighbours(*new))
