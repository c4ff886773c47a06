import pytest
import torch

from lib.modeling.features import Features
from lib.modeling.fusion_training import candidates
from lib.modeling.heads import HEADS, FusionConfig, FusionHead, build_head, register_head
from lib.modeling.stacking import LOGITS, VOTES


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
    assert set(LOGITS + VOTES) <= set(config.inputs)
    assert {"text_mean", "vision_pooled"} <= set(config.reads)
    assert not set(VOTES) & set(config.reads)
