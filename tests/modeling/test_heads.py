import pytest
import torch
from sklearn.preprocessing import StandardScaler

from lib.modeling.features import Features
from lib.modeling.fusion_training import candidates
from lib.modeling.heads import (
    HEADS,
    FusionConfig,
    FusionHead,
    Standardise,
    build_head,
    register_head,
)
from lib.modeling.stacking import LOGITS, VOTE


@pytest.fixture
def difference():
    """A head that somebody adds: one class, registered by its name."""

    @register_head("difference")
    class Difference(FusionHead):
        tries = (("mean", "pooled"), ("cls", "pooled"))

        def build(self, config):
            return config.text_dim

        def fuse(self, text, vision, mask):
            return text - vision

    yield Difference
    del HEADS["difference"]


def test_a_new_head_is_one_class_and_is_built_and_compared_by_its_name(difference):
    head = build_head(FusionConfig(head="difference", text_dim=4, vision_dim=4))
    assert isinstance(head, difference)
    assert head(torch.zeros(3, 4), torch.zeros(3, 4)).shape == (3, 2)
    found = Features(["m"], torch.zeros(1), {"text_mean": torch.zeros(1, 4)})
    tried = [choice for choice in candidates(found) if choice["head"] == "difference"]
    assert [choice["text_feature"] for choice in tried] == ["mean", "cls"]


def test_registering_returns_the_class_under_its_name():
    head = register_head("registered")(type("Registered", (FusionHead,), {}))
    assert HEADS.pop("registered") is head


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'concta' is unknown; known: concat, align"):
        build_head(FusionConfig(head="concta", text_dim=4, vision_dim=4))


@pytest.mark.parametrize("kind", ["concat", "late", "cross_attention"])
def test_a_stacking_head_reads_the_scores_and_the_space_of_the_votes(kind):
    config = FusionConfig(
        head=kind,
        stack=True,
        voters=5,
        voters_text_dim=3,
        voters_vision_dim=3,
        text_dim=4,
        vision_dim=4,
    )
    assert {*LOGITS, VOTE} <= set(config.inputs)
    assert {"text_mean", "vision_pooled"} <= set(config.reads)
    assert VOTE not in config.reads


@pytest.mark.parametrize("same", [0.0, 0.1, 40.0])
def test_a_feature_that_is_the_same_in_all_training_memes_keeps_its_scale(same):
    """As in StandardScaler: it moves another meme by as much as it differs there, not by 1e6."""
    rows = torch.randn(99, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = same
    scale = Standardise(3)
    scale.fit(rows)
    expected = StandardScaler().fit(rows)
    assert scale.std.tolist() == pytest.approx(expected.scale_.tolist(), rel=0.01)
    assert scale(torch.full((1, 3), same + 2))[0, 1].item() == pytest.approx(2, abs=1e-4)
