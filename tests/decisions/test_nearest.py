import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lib.decisions import error_analysis
from lib.decisions.bundle import DecisionBundle
from lib.decisions.error_analysis import write_errors
from lib.decisions.nearest import COLUMNS, NearestMemes, compared_with, nearest_memes
from lib.decisions.spreadsheets import as_met
from lib.modeling.features import Features


def features(n, seed=0, prefix="m"):
    rng = torch.Generator().manual_seed(seed)
    arrays = {
        "text_mean": torch.randn(n, 5, generator=rng) + 3,
        "vision_pooled": 10 * torch.randn(n, 7, generator=rng),
    }
    return Features([f"{prefix}{i}" for i in range(n)], torch.arange(n) % 2, arrays)


def cosines(train, memes):
    """The cosine (N, M) of each meme to each train meme, as Step_7.md says."""
    halves = []
    for name in ("text_mean", "vision_pooled"):
        mean = train.arrays[name].mean(0)
        one, other = (normalize(f.arrays[name] - mean, dim=1) for f in (memes, train))
        halves.append(one @ other.T)
    return (sum(halves) / 2).numpy()


def test_the_nearest_are_those_of_highest_cosine_and_come_first():
    train, memes = features(40), features(12, seed=1, prefix="t")
    expected = cosines(train, memes)
    order = np.argsort(-expected, axis=1)
    found = NearestMemes(train, memes).frame(memes.ids, 0)
    assert tuple(found) == COLUMNS
    for rank in (1, 2, 3):
        place = order[:, rank - 1]
        assert found[f"nearest_{rank}_id"].tolist() == [f"m{i}" for i in place]
        assert found[f"nearest_{rank}_label"].tolist() == (place % 2).tolist()
        np.testing.assert_allclose(
            found[f"nearest_{rank}_cosine"], expected[np.arange(12), place], atol=1e-4
        )


def test_memes_may_come_in_parts():
    train, memes = features(20), features(9, seed=1, prefix="t")
    near = NearestMemes(train, memes)
    whole = near.frame(memes.ids, 0)
    assert near.frame(memes.ids[4:], 4).equals(whole[4:].reset_index(drop=True))
    with pytest.raises(ValueError, match="cached features are not of the predicted memes"):
        near.frame(memes.ids[4:], 3)


def test_a_meme_is_not_its_own_neighbour():
    train = features(15)
    found = NearestMemes(train, train).frame(train.ids, 0)
    for rank in (1, 2, 3):
        assert (found[f"nearest_{rank}_id"] != np.array(train.ids)).all()
    other = cosines(train, train) - 9 * np.eye(15)
    assert found["nearest_1_id"].tolist() == [f"m{i}" for i in other.argmax(1)]


def test_of_many_train_memes_every_so_many_is_looked_at():
    train, memes = features(40), features(5, seed=1, prefix="t")
    found = NearestMemes(train, memes, most=10).frame(memes.ids, 0)
    places = found[[f"nearest_{rank}_id" for rank in (1, 2, 3)]].map(lambda i: int(i[1:]))
    assert (places % 4 == 0).all(axis=None)


def test_the_more_memes_there_are_the_fewer_each_is_compared_with():
    assert compared_with(0) == compared_with(600) == compared_with(25_000) == 20_000
    assert compared_with(100_000) == 5_000
    assert compared_with(10_000_000) == 1_000


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_train_memes_leave_columns_empty(n):
    train, memes = features(n), features(4, seed=1, prefix="t")
    found = NearestMemes(train, memes).frame(memes.ids, 0)
    known = found.notna().all()
    assert known.sum() == 3 * n
    own = NearestMemes(train, train).frame(train.ids, 0)
    assert own.notna().all().sum() == 3 * (n - 1)


def test_step_7_reads_them_from_the_cache_of_a_whole_run(full_root):
    near = nearest_memes(full_root)
    assert near is not None
    write_errors(full_root, DecisionBundle.load(full_root), chunk=7)
    table = as_met(full_root.artifact(7, "errors.csv"))
    expected = near.frame(table["id"].tolist(), 0)
    assert table[list(COLUMNS)].notna().all(axis=None)
    for name in COLUMNS:
        assert table[name].tolist() == expected[name].tolist()


def test_features_that_are_not_cached_are_not_made_here(full_root, tmp_path):
    elsewhere = full_root.model_copy(update={"root": tmp_path})
    for name in ("Step_3", "models", "Step_6"):
        (tmp_path / name).symlink_to(full_root.root / name)
    with pytest.warns(UserWarning, match="features of 'train' are not cached; evaluate again"):
        assert nearest_memes(elsewhere) is None
    assert error_analysis._columns(None, 2).shape == (2, len(COLUMNS))
