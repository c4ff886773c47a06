import math

import pytest
import torch

from lib.config import Settings
from lib.modeling import compared_heads
from lib.modeling.compared_heads import ComparedHeads
from lib.modeling.features import Features
from lib.modeling.heads import FusionConfig

CONFIG = FusionConfig(text_dim=3, vision_dim=2, text_feature="mean", vision_feature="pooled")


def features(seed=0):
    rng = torch.Generator().manual_seed(seed)
    widths = {"text_mean": 3, "vision_pooled": 2, "text_cls": 3}
    arrays = {name: torch.randn(5, width, generator=rng) for name, width in widths.items()}
    return Features(list("abcde"), torch.tensor([0, 1, 0, 1, 1]), arrays)


@pytest.fixture
def settings(tmp_path):
    return Settings(root=tmp_path)


def ask(settings, train, config=CONFIG, seed=0, score=0.5, val=None):
    """The scores, and whether they had to be computed."""
    kept = ComparedHeads(settings, train, val)
    known = kept.has(config, seed)
    if not known:
        kept.keep(config, seed, {"loss": score, "auroc": math.nan})
    return kept.scores(config, seed), not known


def test_an_equal_head_is_not_scored_twice(settings):
    first, computed = ask(settings, features(), score=1 / 3)
    again, anew = ask(settings, features(), score=0.9)
    assert computed
    assert not anew
    assert first["loss"] == again["loss"] == pytest.approx(1 / 3, abs=1e-8)
    assert math.isnan(again["auroc"])


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"config": CONFIG.model_copy(update={"rank": 8})},
        {"train": features(1)},
        {"val": features()},
    ],
)
def test_whatever_decides_a_head_makes_it_another(settings, changed):
    ask(settings, features())
    assert ask(settings, **{"train": features()} | changed)[1]


def test_other_settings_of_training_make_it_another(settings):
    ask(settings, features())
    assert ask(settings.model_copy(update={"fusion_lr": 1e-4}), features())[1]


def test_a_head_that_was_edited_is_another(settings, tmp_path, monkeypatch):
    code = tmp_path / "heads.py"
    monkeypatch.setattr(compared_heads, "CODE", (code,))
    code.write_text("before")
    assert ask(settings, features())[1]
    assert not ask(settings, features())[1]
    code.write_text("after")
    assert ask(settings, features())[1]


def test_features_that_the_head_does_not_read_do_not_count(settings):
    ask(settings, features())
    unread = features().with_arrays(text_cls=torch.zeros(5, 3))
    assert not ask(settings, unread)[1]
