import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import selecting_rows
from lib.modeling import fusion_inputs, fusion_tuning
from lib.modeling.encoders import EXPERTS, Encoders
from lib.modeling.fusion import load_fusion, save_fusion
from lib.modeling.fusion_inputs import encode_for_fusion, load_encoders
from lib.modeling.fusion_training import choose_head, train_fusion
from lib.modeling.fusion_tuning import tune_fusion
from lib.modeling.prediction_table import logits_of
from lib.modeling.predictions import predict_shards
from lib.modeling.stacking import VOTE

POOLED = {"fusion_head": "concat", "text_feature": "mean", "vision_feature": "pooled"}
TOP = POOLED | {"fusion_tuning": "top_k", "fusion_top_k": 1, "fusion_tuning_lr": 1e-3}


def step_5(settings):
    """The head before tuning and the features and encoders it was trained on."""
    encoders = load_encoders(settings)
    train, val = encode_for_fusion(settings, encoders)
    head = train_fusion(train, choose_head(None, train, settings), settings, val)
    return head, train, val, encoders


def as_pilot(settings):
    """A pilot of the same shards and experts."""
    pilot = settings.model_copy(update={"mode": "pilot"})
    for folder in ("shards", "models"):
        there = getattr(pilot, folder)
        shutil.copytree(getattr(settings, folder), there, dirs_exist_ok=True)
    return pilot


def kept(monkeypatch):
    """Let any outcome count as better than what it began with."""
    numbers = iter(range(100))
    monkeypatch.setattr(fusion_tuning, "goodness_of", lambda *_: next(numbers))


def samples_of(settings, split="val"):
    return list(MemeShards(shard_paths(settings.shards, split)))


def logits(model, samples):
    with torch.inference_mode():
        return model([s["text"] for s in samples], [s["image"] for s in samples])


def weights(source):
    return {name: tensor.clone() for name, tensor in source.model.state_dict().items()}


CASES = {
    "last layers": TOP,
    "adapters": POOLED | {"fusion_tuning": "lora", "fusion_tuning_lr": 1e-2},
    "tokens": {"fusion_head": "cross_attention", "fusion_tuning": "lora", "fusion_tuning_lr": 1e-2},
    "clip": TOP | {"text_feature": "dual", "vision_feature": "dual", "dual_encoder": "clip"},
    "siglip": TOP
    | {"text_feature": "dual", "vision_feature": "dual", "dual_encoder": "siglip"}
    | {"fusion_tuning": "lora", "fusion_head": "align"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_tuned_model_is_saved_whole_and_answers_as_it_did(
    case, with_experts, dual_encoder, monkeypatch
):
    choice = dict(CASES[case])
    if "dual_encoder" in choice:
        choice["dual_encoder"] = str(dual_encoder(choice["dual_encoder"]))
    settings = with_experts(**choice)
    head, train, val, encoders = step_5(settings)
    kept(monkeypatch)
    tuned, found, _, seen = tune_fusion(head, train, val, settings, encoders)
    dual = "dual_encoder" in choice
    names = ("dual_encoder",) if dual else ("text_encoder", "vision_encoder")
    assert tuned.head.config.tuned == names
    folder = save_fusion(tuned, settings, found)
    state = torch.load(folder / "fusion_model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in state} == {"head", *names}
    assert not [name for name in state if "lora" in name or "modules_to_save" in name]
    assert not list(folder.glob("encoders/*/*.safetensors"))
    # Loaded, it gives what the encoders and the head in memory give, and so does every split's row.
    with torch.inference_mode():
        expected = tuned.head(*(seen.arrays[name][:] for name in tuned.head.config.inputs))
    served = logits(load_fusion(settings.models, "cpu"), samples_of(settings))["mm_fusion"]
    tolerance = 5e-3 if case == "tokens" else 1e-5  # token states are cached in half precision
    memes = MemeShards(shard_paths(settings.shards, "val"), pictures=False)
    chosen = selecting_rows(memes.labels, memes.groups)
    torch.testing.assert_close(served[chosen], expected, atol=tolerance, rtol=0)
    with torch.inference_mode():
        before = head.head(*(val.arrays[name][:] for name in head.head.config.inputs))
    assert (served[chosen] - before).abs().max() > 1e-3
    frame = predict_shards({"val": shard_paths(settings.shards, "val")}, settings.models)
    rows = torch.tensor(logits_of(frame, "mm_fusion").to_numpy()).float()
    torch.testing.assert_close(rows, served, atol=tolerance, rtol=0)


def test_the_experts_say_what_they_said(with_experts, monkeypatch):
    settings = with_experts(**TOP)
    head, train, val, encoders = step_5(settings)
    experts = {name: weights(encoders.sources[name]) for name in EXPERTS}
    said = logits(Encoders.load(settings.models), samples_of(settings))
    kept(monkeypatch)
    tuned, found, *_ = tune_fusion(head, train, val, settings, encoders)
    save_fusion(tuned, settings, found)
    for name in EXPERTS:
        assert all(
            torch.equal(tensor, experts[name][key])
            for key, tensor in found.sources[name].model.state_dict().items()
        )
    frame = predict_shards({"val": shard_paths(settings.shards, "val")}, settings.models)
    for name in EXPERTS:
        rows = torch.tensor(logits_of(frame, name).to_numpy()).float()
        expected = said[f"{name.removesuffix('_expert')}_logits"]
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


def test_the_last_layers_learn_and_the_others_do_not(with_experts, monkeypatch):
    settings = with_experts(**TOP)
    head, train, val, encoders = step_5(settings)
    kept(monkeypatch)
    _, found, *_ = tune_fusion(head, train, val, settings, encoders)
    for expert, own in zip(EXPERTS, ("text_encoder", "vision_encoder"), strict=True):
        before, after = weights(encoders.sources[expert]), weights(found.sources[own])
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        assert changed
        assert all(".layer.1." in name or ".layers.1." in name for name in changed), changed


def test_an_outcome_that_is_no_better_on_val_is_dropped(with_experts):
    settings = with_experts(**TOP | {"fusion_tuning_lr": 3.0, "select_by": "log_loss"})
    head, train, val, encoders = step_5(settings)
    again, same, *_ = tune_fusion(head, train, val, settings, encoders)
    assert again is head
    assert same is encoders
    assert set(same.sources) == set(EXPERTS)


def test_the_best_epoch_is_kept(with_experts, monkeypatch):
    runs = {}
    for epochs, scores in ((2, [0.1, 0.5, 0.9]), (3, [0.1, 0.5, 0.9, 0.2])):
        settings = with_experts(**TOP | {"fusion_tuning_epochs": epochs})
        head, train, val, encoders = step_5(settings)
        script = iter([each for score in scores for each in (score, score)][1:])
        monkeypatch.setattr(fusion_tuning, "goodness_of", lambda *_, script=script: next(script))
        monkeypatch.setattr(fusion_tuning, "get_linear_schedule_with_warmup", _constant)
        runs[epochs] = tune_fusion(head, train, val, settings, encoders)[:2]
    (two, ours), (three, theirs) = runs[2], runs[3]
    assert len(three.history) == len(two.history) + 1
    for name, tensor in ours.sources["text_encoder"].model.state_dict().items():
        assert torch.equal(tensor, theirs.sources["text_encoder"].model.state_dict()[name])
    for name, tensor in two.head.state_dict().items():
        assert torch.equal(tensor, three.head.state_dict()[name])


def _constant(optimiser, *_):
    return torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)


def test_a_pilot_keeps_what_it_tuned_and_learns_its_memes(with_experts):
    settings = with_experts(**TOP | {"fusion_tuning_epochs": 12, "fusion_tuning_lr": 3e-3})
    pilot = as_pilot(settings)
    head, train, val, encoders = step_5(pilot)
    assert val is None
    tuned, found, *_ = tune_fusion(head, train, None, pilot, encoders)
    added = tuned.history[len(head.history) :]
    assert [entry["epoch"] for entry in added] == list(range(4, 16))
    assert added[-1]["loss"] < added[0]["loss"] - 0.05
    assert set(found.sources) == {*EXPERTS, "text_encoder", "vision_encoder"}


def test_the_same_seed_gives_the_same_weights(with_experts):
    states = []
    for seed in (3, 3, 4):
        settings = with_experts(**TOP | {"fusion_tuning": "lora", "seed": seed})
        pilot = as_pilot(settings)
        head, train, _, encoders = step_5(pilot)
        _, found, *_ = tune_fusion(head, train, None, pilot, encoders)
        states.append(
            torch.cat([t.flatten() for t in weights(found.sources["text_encoder"]).values()])
        )
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.fixture
def stacked(with_experts, monkeypatch):
    """Settings of a stacking run; the logits of fold models are drawn, not trained."""
    rng = torch.Generator().manual_seed(0)
    monkeypatch.setattr(fusion_inputs, "out_of_fold", lambda *_: torch.randn(44, 2, generator=rng))
    return with_experts(**TOP | {"fusion_features": "out_of_fold", "retrieval": True})


def test_a_stacking_head_learns_from_logits_that_have_not_seen_the_labels(stacked, monkeypatch):
    head, train, val, encoders = step_5(stacked)
    kept(monkeypatch)
    read = []
    forward = type(head.head).forward

    def watched(self, *inputs):
        read.append(inputs[2]) if self.training else None
        return forward(self, *inputs)

    monkeypatch.setattr(type(head.head), "forward", watched)
    tuned, found, _, seen = tune_fusion(head, train, val, stacked, encoders)
    rows = torch.cat(read)
    assert sorted(rows[:, 0].tolist()) == sorted(train.arrays["text_logits"][:, 0].tolist())
    # Its encoders are copies of the pre-trained ones, and the memes that vote stand in their space.
    save_fusion(tuned, stacked, found)
    served = logits(load_fusion(stacked.models, "cpu"), samples_of(stacked))["mm_fusion"]
    votes = tuned.head.neighbours(seen.arrays["text_mean"], seen.arrays["vision_pooled"])
    arrays = seen.arrays | {VOTE: votes}
    with torch.inference_mode():
        expected = tuned.head(*(arrays[name][:] for name in tuned.head.config.inputs))
    place = {sample["id"]: row for row, sample in enumerate(samples_of(stacked))}
    served = served[[place[meme] for meme in seen.ids]]
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)
    before, after = (each.head.neighbours.memes for each in (head, tuned))
    assert not torch.equal(before, after)
    # Val was judged by the votes of the memes where they stand now.
    judged = tuned.history[-1]["eval_loss"]
    assert judged == pytest.approx(cross_entropy(expected, val.labels).item(), abs=1e-5)


def test_a_part_of_train_alone_is_tuned_on_where_only_that_is_unseen(with_experts, monkeypatch):
    settings = with_experts(**TOP | {"fusion_features": "held_out", "folds": 2})
    head, train, val, encoders = step_5(settings)
    kept(monkeypatch)
    seen, collate = set(), fusion_tuning.collate

    def watched(prepare, samples):
        seen.update(sample["id"] for sample in samples)
        return collate(prepare, samples)

    monkeypatch.setattr(fusion_tuning, "collate", watched)
    tune_fusion(head, train, val, settings, encoders)
    assert seen == set(train.ids)
    assert len(seen) < len(samples_of(settings, "train"))


def test_a_loss_that_is_not_a_number_names_the_memes(with_experts):
    settings = with_experts(**TOP)
    head, train, _, encoders = step_5(settings)
    with torch.no_grad():
        next(head.head.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"loss is nan on the memes .*fusion_tuning_lr"):
        tune_fusion(head, train, None, settings, encoders)


def test_a_head_of_scores_alone_has_nothing_to_tune(with_experts):
    settings = with_experts(**TOP | {"fusion_head": "late"})
    head, train, val, encoders = step_5(settings)
    with pytest.warns(UserWarning, match="late reads no encoder's features.*nothing to tune"):
        again, same, *_ = tune_fusion(head, train, val, settings, encoders)
    assert (again, same) == (head, encoders)


def test_without_tuning_nothing_happens(with_experts):
    settings = with_experts(**POOLED)
    head, train, val, encoders = step_5(settings)
    outcome = tune_fusion(head, train, val, settings, encoders)
    assert all(a is b for a, b in zip(outcome, (head, encoders, train, val), strict=True))


def test_too_many_layers_are_refused(with_experts):
    settings = with_experts(**TOP | {"fusion_top_k": 9})
    with pytest.raises(ValueError, match=r"top_k=9, but .* has 2 blocks"):
        tune_fusion(*step_5(settings)[:3], settings, load_encoders(settings))


@pytest.fixture
def saved(with_experts, dual_encoder, monkeypatch):
    """A root with a tuned model that reads both towers of a CLIP."""
    choice = {"text_feature": "dual", "vision_feature": "dual"}
    settings = with_experts(**TOP | choice | {"dual_encoder": str(dual_encoder("clip"))})
    head, train, val, encoders = step_5(settings)
    kept(monkeypatch)
    tuned, found, *_ = tune_fusion(head, train, val, settings, encoders)
    save_fusion(tuned, settings, found)
    return settings


def test_a_tuned_model_is_loaded_without_the_training_stack(saved):
    heavy = "transformers.trainer peft matplotlib lib.modeling.fusion_tuning"
    heavy += " lib.modeling.experts lib.modeling.fusion_training lib.modeling.trainable_layers"
    program = (
        "import sys\nfrom lib.modeling.fusion import load_fusion\n"
        "print(load_fusion(sys.argv[1], 'cpu').head.config.tuned)\n"
        f"print(*(name for name in {heavy.split()} if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(saved.models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("('dual_encoder',)\n\n", 0), done.stderr


def test_a_torn_or_foreign_file_is_named(saved):
    file = saved.model_folder("mm_fusion") / "fusion_model.pt"
    state = torch.load(file, weights_only=True)
    for broken in (
        {name: tensor for name, tensor in state.items() if not name.startswith("head.")},
        {name: tensor for name, tensor in state.items() if "text_projection" not in name},
        state | {"stranger.weight": torch.zeros(1)},
    ):
        torch.save(broken, file)
        with pytest.raises(ValueError, match=r"fusion_model\.pt is broken or not of the config"):
            load_fusion(saved.models)
    shutil.rmtree(saved.model_folder("mm_fusion") / "encoders")
    with pytest.raises(FileNotFoundError, match=r"dual_encoder.*--from 5"):
        load_fusion(saved.models)


def test_a_killed_tuning_goes_on_to_the_same_weights(with_experts, monkeypatch):
    settings = with_experts(**TOP | {"fusion_tuning_epochs": 3})
    started = step_5(settings)
    encoders = started[3]
    kept(monkeypatch)
    whole = tune_fusion(*started[:3], settings, encoders)
    for file in settings.features.glob("tuning-*"):
        file.unlink()
    epochs, learn = [], fusion_tuning._epoch

    def killed(*given):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        return learn(*given)

    kept(monkeypatch)
    monkeypatch.setattr(fusion_tuning, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        tune_fusion(*started[:3], settings, encoders)
    monkeypatch.setattr(fusion_tuning, "_epoch", learn)
    torch.rand(7)  # another process has thrown other dice meanwhile
    gone_on = tune_fusion(*started[:3], settings, encoders)
    _same(whole, gone_on)
    monkeypatch.setattr(fusion_tuning, "_epoch", None)
    _same(whole, tune_fusion(*started[:3], settings, encoders))


def test_another_tuning_does_not_take_up_what_was_kept(with_experts, monkeypatch):
    first, other = (
        with_experts(**TOP | {"fusion_tuning_epochs": 1, "fusion_tuning_lr": rate})
        for rate in (1e-3, 2e-3)
    )
    started = step_5(first)
    kept(monkeypatch)
    tune_fusion(*started[:3], first, started[3])
    (file,) = first.features.glob("tuning-*")
    config = started[0].head.config
    assert fusion_tuning.tuning_file(first, config, *started[1:3]) == file
    assert fusion_tuning.tuning_file(other, config, *started[1:3]).name != file.name
    fewer = started[1].take(np.arange(len(started[1]) - 1))
    assert fusion_tuning.tuning_file(first, config, fewer, started[2]) != file
    altered = started[1].with_altered(vision_logits=torch.ones(len(started[1]), 2))
    assert fusion_tuning.tuning_file(first, config, altered, started[2]) != file
    changed = first.model_copy(update={"fusion_tuning_lr": 3e-3})
    tune_fusion(*started[:3], changed, started[3])
    assert len(list(first.features.glob("tuning-*"))) == 1  # the one before is gone
    assert not file.exists()


def _same(one, two):
    for ours, theirs in ((one[0].head, two[0].head), (one[1], two[1])):
        states = ours.state_dict(), theirs.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert one[0].history == two[0].history
