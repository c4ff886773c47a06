import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from lib.modeling.stacking import NEIGHBOURS, SPACES, VOTES, Neighbours, Stack


def memes(n, seed=0, width=6):
    rng = torch.Generator().manual_seed(seed)
    text, vision = (torch.randn(n, width, generator=rng) for _ in VOTES)
    return text, vision, (text[:, 0] > 0).long()


def neighbours(n=80):
    text, vision, labels = memes(n)
    kept = Neighbours(n, text.shape[1], vision.shape[1])
    kept.keep(text, vision, labels)
    return kept


def vote_by_hand(bank, labels, query, temperature, skip=()):
    """The definition, meme by meme."""
    mean = bank.mean(0)
    unit = [(x - mean) / np.linalg.norm(x - mean) for x in (*bank, query)]
    cosine = np.array([unit[-1] @ other for other in unit[:-1]])
    rows = [row for row in np.argsort(-cosine, kind="stable") if row not in skip][:NEIGHBOURS]
    return softmax(cosine[rows] / temperature) @ labels[rows]


@pytest.mark.parametrize("vote", VOTES)
def test_a_vote_is_the_weighted_share_of_hate_among_the_nearest(vote):
    text, vision, labels = memes(80)
    other = memes(5, seed=1)
    bank, queries = {"text_vote": (text, other[0]), "vision_vote": (vision, other[1])}[vote]
    found = neighbours()(other[0], other[1])[vote]
    expected = [
        vote_by_hand(bank.numpy(), labels.numpy(), query, SPACES[vote][1])
        for query in queries.numpy()
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_meme_and_its_group_have_no_vote_on_it():
    text, vision, labels = memes(80)
    groups = ["pair", "pair", *(f"alone {row}" for row in range(78))]
    found = neighbours()(text, vision, groups)["text_vote"]
    expected = vote_by_hand(text.numpy(), labels.numpy(), text[0].numpy(), 0.05, skip=(0, 1))
    assert found[0].item() == pytest.approx(expected, abs=1e-5)


def test_fewer_memes_than_neighbours_all_vote():
    text, vision, labels = memes(4)
    kept = Neighbours(4, 6, 6)
    kept.keep(text, vision, labels)
    votes = kept(text, vision)["text_vote"]
    assert votes.shape == (4,)
    assert ((votes >= 0) & (votes <= 1)).all()


def test_votes_come_back_with_the_weights():
    kept, back = neighbours(), Neighbours(80, 6, 6)
    back.load_state_dict(kept.state_dict())
    text, vision, _ = memes(7, seed=3)
    for vote in VOTES:
        assert torch.equal(kept(text, vision)[vote], back(text, vision)[vote])


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
