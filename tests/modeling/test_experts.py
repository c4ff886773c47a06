import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from lib.calibration import calibrated_loss
from lib.config import MODELS, ROOT
from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import selecting_rows
from lib.modeling import expert_trainer, experts
from lib.modeling.expert_inputs import expert_inputs
from lib.modeling.experts import train_expert
from lib.modeling.model_files import load_expert

# Kills its own process the moment the first checkpoint is whole, as a power cut would.
KILLED_AT_FIRST_CHECKPOINT = """
import os, signal
from lib.modeling import expert_trainer, experts
expert_trainer._Bar.on_save = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
experts.main()
"""


def weights(settings, name="text_expert"):
    return load_file(settings.model_folder(name) / "model.safetensors")


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=0)


def configuration(settings, **changed):
    """The settings as a configuration file in their root."""
    values = {k: v for k, v in settings.model_dump(mode="json").items() if v is not None}
    file = settings.root / "config.yaml"
    file.write_text(yaml.safe_dump(values | changed))
    return file


def text_logits(settings):
    """Logits and labels of the val memes that the epoch is chosen on."""
    model, tokenizer = load_expert(settings.model_folder("text_expert"))
    memes = MemeShards(shard_paths(settings.shards, "val"), pictures=False)
    inputs = tokenizer(memes.texts, padding=True, truncation=True, return_tensors="pt")
    rows = selecting_rows(memes.labels, memes.groups)
    with torch.inference_mode():
        return model(**inputs).logits[rows], torch.tensor(memes.labels)[rows]


@pytest.mark.parametrize("name", ["text_expert", "vision_expert"])
def test_training_saves_a_whole_folder_and_its_log(fresh, name):
    settings = fresh(text_epochs=4, vision_epochs=1, text_lr=5e-3, patience=4)
    expert = train_expert(name, settings)
    model, processor = load_expert(expert.folder)
    assert expert.folder == settings.model_folder(name)
    assert not model.training
    assert model.config.id2label == {0: "non-hate", 1: "hate"}
    assert processor is not None
    steps = [entry["loss"] for entry in expert.history if "loss" in entry]
    evals = [entry["eval_macro_f1"] for entry in expert.history if "eval_macro_f1" in entry]
    assert len(evals) == (4 if name == "text_expert" else 1)
    assert all(loss > 0 for loss in steps)
    assert not (settings.models / ".training" / name).exists()


def test_the_same_seed_gives_the_same_bytes(fresh):
    one, two = (fresh(root, vision_epochs=1) for root in ("one", "two"))
    for settings in (one, two):
        train_expert("vision_expert", settings)
    assert (one.model_folder("vision_expert") / "model.safetensors").read_bytes() == (
        two.model_folder("vision_expert") / "model.safetensors"
    ).read_bytes()


def test_the_best_epoch_is_kept_and_training_stops_early(fresh, monkeypatch):
    scripted = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(expert_trainer, "_metrics", lambda _: {"macro_f1": next(scripted)})
    settings = fresh(text_epochs=6, patience=2, text_lr=5e-3, select_by="macro_f1")
    history = train_expert("text_expert", settings).history
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(losses) == 4
    kept = cross_entropy(*text_logits(settings)).item()
    assert kept == pytest.approx(losses[1], abs=1e-5)
    assert all(abs(kept - losses[other]) > 1e-4 for other in (0, 2, 3))


@pytest.mark.parametrize("select_by", ["calibrated_loss", "log_loss"])
def test_the_epoch_of_least_loss_is_kept_by_default_of_the_loss_after_temperature(fresh, select_by):
    chosen = {} if select_by == "calibrated_loss" else {"select_by": select_by}
    settings = fresh(text_epochs=5, patience=5, text_lr=5e-3, **chosen)
    history = train_expert("text_expert", settings).history
    column = {"calibrated_loss": "eval_calibrated_loss", "log_loss": "eval_loss"}[select_by]
    losses = [entry[column] for entry in history if column in entry]
    logits, labels = text_logits(settings)
    kept = {
        "calibrated_loss": calibrated_loss(logits, labels),
        "log_loss": cross_entropy(logits, labels).item(),
    }
    assert kept[select_by] == pytest.approx(min(losses), abs=1e-5)


def test_label_smoothing_pulls_the_loss_of_a_sure_answer_up():
    labels, logits = torch.tensor([0, 1]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    plain, smooth = (expert_trainer._loss([0, 1], False, s) for s in (0.0, 0.1))
    expected = cross_entropy(logits, labels, label_smoothing=0.1)
    assert smooth({"logits": logits}, labels).item() == pytest.approx(expected.item())
    assert plain({"logits": logits}, labels) < smooth({"logits": logits}, labels)


def test_a_finished_expert_is_not_trained_again(fresh, monkeypatch):
    first = train_expert("text_expert", fresh(text_epochs=1))
    monkeypatch.setattr(experts, "make_trainer", None)
    again = train_expert("text_expert", fresh(text_epochs=1))
    assert [entry.keys() for entry in again.history] == [entry.keys() for entry in first.history]


def test_overwrite_keeps_an_expert_that_the_same_command_has_finished(fresh, monkeypatch):
    settings = fresh(text_epochs=1, overwrite=True)
    first = train_expert("text_expert", settings)
    monkeypatch.setattr(experts, "make_trainer", None)
    again = train_expert("text_expert", settings)
    assert [entry.keys() for entry in again.history] == [entry.keys() for entry in first.history]


@pytest.mark.parametrize("left", [None, 100])
def test_an_expert_whose_weights_are_gone_or_cut_short_is_trained_again(fresh, left):
    settings = fresh(text_epochs=1)
    folder = train_expert("text_expert", settings).folder
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink() if left is None else weights.write_bytes(whole[:left])
    with pytest.raises(ValueError, match=r"text_expert: the weights .* Step 4: .*--from 4"):
        load_expert(folder)
    train_expert("text_expert", settings)
    assert weights.read_bytes() == whole


def test_train_that_step_5_cannot_divide_is_refused_before_an_expert_is_trained(fresh):
    settings = fresh(fusion_features="out_of_fold", folds=20)
    with pytest.raises(ValueError, match=r"needs 20 groups of label 0 .*or folds=\d+"):
        train_expert("text_expert", settings)
    assert not settings.model_folder("text_expert").exists()


def test_other_weights_under_the_old_name_are_another_job(fresh, tiny_backbones, tmp_path):
    folder = shutil.copytree(tiny_backbones["text_model"], tmp_path / "backbone")
    settings = fresh(text_model=str(folder))
    before = experts.expert_job("text_expert", settings)
    state = load_file(folder / "model.safetensors")
    state = {name: tensor + 1 for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert experts.expert_job("text_expert", settings) != before


def test_a_backbone_that_was_moved_is_the_same_job_and_leaves_no_path(
    fresh, tiny_backbones, tmp_path
):
    places = [tmp_path / name / "backbone" for name in ("here", "there")]
    jobs = []
    for place in places:
        shutil.copytree(tiny_backbones["text_model"], place)
        jobs.append(experts.expert_job("text_expert", fresh(text_model=str(place))))
    assert jobs[0] == jobs[1]
    assert str(tmp_path) not in json.dumps(jobs[0])


def test_an_expert_of_another_backbone_is_not_replaced_unasked(fresh, tiny_backbones, tmp_path):
    train_expert("text_expert", fresh(text_epochs=1))
    other = tmp_path / "other"
    other.symlink_to(tiny_backbones["text_model"])
    changed = {"text_model": str(other / "."), "text_epochs": 1}
    with pytest.raises(FileExistsError, match=r"text_expert was made by.*overwrite=true"):
        train_expert("text_expert", fresh(**changed))
    train_expert("text_expert", fresh(overwrite=True, **changed))


def test_a_killed_training_goes_on_to_the_same_weights(fresh):
    killed, whole = (fresh(name, text_epochs=3, text_lr=1e-3) for name in ("killed", "whole"))
    options = ["text_expert", "--config", str(configuration(killed))]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_AT_FIRST_CHECKPOINT, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    checkpoints = killed.models / ".training" / "text_expert"
    first = next(checkpoints.glob("checkpoint-*"))
    # A kill in the middle of writing the next one leaves a folder without its last file.
    torn = checkpoints / "checkpoint-9999"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:100])
    resumed, undisturbed = (train_expert("text_expert", s) for s in (killed, whole))
    assert resumed.history == undisturbed.history
    assert_same_bytes(killed, whole)


def assert_same_bytes(ours, theirs):
    """All files of the text expert, but for where its backbone lies."""
    one, two = (settings.model_folder("text_expert") for settings in (ours, theirs))
    assert {f.name for f in one.iterdir()} == {f.name for f in two.iterdir()}
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name


def test_patience_remembers_the_epochs_before_a_kill(fresh, monkeypatch):
    """Killed after the second epoch, which was no better, it stops at the third as undisturbed."""
    common = {"text_epochs": 5, "patience": 2, "select_by": "macro_f1"}
    whole, killed = (fresh(name, **common) for name in ("whole", "killed"))
    script(monkeypatch, [0.5, 0.4, 0.3, 0.2, 0.1])
    assert evaluations(train_expert("text_expert", whole)) == 3
    script(monkeypatch, [0.5, 0.4])
    saves = []

    def stop(self, *args, **kwargs):
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(expert_trainer._Bar, "on_save", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            train_expert("text_expert", killed)
    script(monkeypatch, [0.3, 0.2, 0.1])
    assert evaluations(train_expert("text_expert", killed)) == 3
    assert_same_bytes(killed, whole)


@pytest.mark.parametrize("scores", [[0.5, 0.4, 0.3, 0.9], [0.3, 0.4, 0.5]])
def test_a_training_killed_before_it_was_saved_ends_as_it_had(fresh, monkeypatch, scores):
    """Once patience had ended it, once all epochs were done."""
    common = {"text_epochs": 5 if len(scores) > 3 else 3, "patience": 2, "select_by": "macro_f1"}
    whole, killed = (fresh(name, **common) for name in ("whole", "killed"))
    script(monkeypatch, scores)
    assert evaluations(train_expert("text_expert", whole)) == 3
    script(monkeypatch, scores)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experts, "_save", Mock(side_effect=KeyboardInterrupt))
        train_expert("text_expert", killed)
    script(monkeypatch, [0.9, 0.9])
    assert evaluations(train_expert("text_expert", killed)) == 3
    assert_same_bytes(killed, whole)


def test_what_a_kill_left_of_a_finished_training_goes(fresh):
    settings = fresh(text_epochs=1)
    train_expert("text_expert", settings)
    left = settings.models / ".training" / "text_expert"
    (left / "checkpoint-1").mkdir(parents=True)
    train_expert("text_expert", settings)
    assert not left.exists()


def test_a_backbone_for_several_labels_learns_one(fresh, tiny_backbones, tmp_path):
    folder = shutil.copytree(tiny_backbones["text_model"], tmp_path / "several")
    config = json.loads((folder / "config.json").read_text())
    several = config | {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(several))
    settings = fresh(text_model=str(folder), text_epochs=1)
    train_expert("text_expert", settings)
    trained = json.loads((settings.model_folder("text_expert") / "config.json").read_text())
    assert trained["problem_type"] == "single_label_classification"
    assert len(trained["id2label"]) == 2


def test_an_expert_whose_examples_are_all_held_out_is_refused(fresh, monkeypatch):
    settings = fresh(fusion_features="held_out")
    everything = np.arange(len(MemeShards(shard_paths(settings.shards, "train"), pictures=False)))
    monkeypatch.setattr(experts, "head_rows", lambda _: everything)
    with pytest.raises(ValueError, match="all train memes with a picture are in one of 4 folds"):
        train_expert("vision_expert", settings)


def test_layers_that_the_backbone_lacks_learn_with_the_top_ones(fresh, tiny_backbones, tmp_path):
    folder = shutil.copytree(tiny_backbones["text_model"], tmp_path / "lacking")
    state = load_file(folder / "model.safetensors")
    pooler = [name for name in state if "pooler" in name]
    kept = {name: tensor for name, tensor in state.items() if name not in pooler}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for model, learns in ((tiny_backbones["text_model"], False), (folder, True)):
        settings = fresh(text_model=str(model), text_tuning="top_k", top_k=1)
        found = expert_inputs("text_expert", settings, evaluate=False).model
        assert pooler and found.pooler.dense.weight.requires_grad == learns


def script(monkeypatch, scores):
    """Let the epochs to come reach these scores."""
    scripted = iter(scores)
    monkeypatch.setattr(expert_trainer, "_metrics", lambda _: {"macro_f1": next(scripted)})


def evaluations(expert):
    return sum("eval_loss" in entry for entry in expert.history)


@pytest.mark.parametrize("name", ["text_expert", "vision_expert"])
def test_two_processes_equal_one(fresh, name):
    # 44 memes are 5 batches of 8 and one of 4, which two processes share.
    common = {"text_epochs": 2, "vision_epochs": 1, "text_lr": 1e-3, "batch_size": 8}
    two, one = (fresh(root, workers=0, **common) for root in ("two", "one"))
    assert len(expert_inputs(name, one, evaluate=False).train) % 8
    ended = launched(two, name)
    assert ended.returncode == 0, ended.stderr
    train_expert(name, one)
    assert_close(weights(two, name), weights(one, name), 1e-3)


def test_workers_are_part_of_the_job_where_they_flip_pictures(fresh):
    def jobs(**changed):
        return [experts.expert_job(n, fresh(**changed)) for n in ("text_expert", "vision_expert")]

    one, two = jobs(workers=1), jobs(workers=2)
    assert one[0] == two[0] and one[1] != two[1]
    still = {"vision_tuning": "top_k", "top_k": 0}
    assert jobs(workers=1, **still)[1] == jobs(workers=2, **still)[1]


def test_a_batch_that_the_processes_cannot_share_is_refused(fresh):
    ended = launched(fresh(text_epochs=1, batch_size=5), "text_expert")
    assert ended.returncode != 0
    assert "batch_size=5 cannot be shared evenly by 2 processes" in ended.stderr


def launched(settings, name):
    """The expert's program on two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = ["-m", "lib.modeling.experts", name, "--config", str(configuration(settings))]
    return subprocess.run(
        [*launch, "--nproc-per-node", "2", *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )


def test_several_gpus_in_one_process_are_not_each_given_a_batch(fresh, monkeypatch):
    monkeypatch.setattr(expert_trainer.TrainingArguments, "n_gpu", property(lambda self: 4))
    settings = fresh()
    inputs = expert_inputs("text_expert", settings, evaluate=False)
    trainer = expert_trainer.make_trainer("text_expert", settings, inputs, settings.root / "c")
    assert trainer.args._n_gpu == 1


def test_layers_learn_at_their_own_rates(fresh):
    settings = fresh(layer_decay=0.5, text_lr=1e-3)
    inputs = expert_inputs("text_expert", settings, evaluate=False)
    trainer = expert_trainer.make_trainer("text_expert", settings, inputs, settings.root / "c")
    optimiser = trainer.create_optimizer()
    rates = sorted({group["lr"] for group in optimiser.param_groups}, reverse=True)
    assert rates == pytest.approx([1e-3, 0.5e-3, 0.25e-3, 0.125e-3])
    count = sum(len(group["params"]) for group in optimiser.param_groups)
    assert count == len(list(inputs.model.parameters()))


@pytest.mark.parametrize("class_weights", [False, True])
def test_accumulated_small_batches_equal_the_large_one(fresh, class_weights):
    common = {"text_epochs": 1, "text_lr": 1e-3, "class_weights": class_weights}
    large = fresh("large", batch_size=16, **common)
    small = fresh("small", batch_size=4, gradient_accumulation=4, **common)
    for settings in (large, small):
        train_expert("text_expert", settings)
    assert_close(weights(small), weights(large), 1e-4)


def test_class_weights_make_both_classes_count_alike():
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.tensor([[2.0, 0.0]] * 4)
    per_class = [cross_entropy(logits[:1], torch.tensor([label])) for label in (0, 1)]
    weighted = expert_trainer._loss(labels, balanced=True)({"logits": logits}, labels)
    assert weighted.item() == pytest.approx(np.mean(per_class), abs=1e-6)
    plain = expert_trainer._loss(labels, balanced=False)({"logits": logits}, labels)
    assert plain.item() == pytest.approx(np.average(per_class, weights=[3, 1]), abs=1e-6)


def test_memes_of_one_class_need_no_weights():
    labels, logits = torch.tensor([1, 1]), torch.tensor([[0.0, 1.0]] * 2)
    weighted, plain = (
        expert_trainer._loss(labels.tolist(), balanced) for balanced in (True, False)
    )
    assert weighted({"logits": logits}, labels) == plain({"logits": logits}, labels)


def test_a_last_batch_that_is_filled_up_does_not_count_twice(fresh, monkeypatch):
    """As of several processes, whose last batch of val repeats its first memes."""
    settings = fresh(select_by="log_loss")
    inputs = expert_inputs("text_expert", settings, evaluate=True)
    trainer = expert_trainer.make_trainer("text_expert", settings, inputs, settings.root / "c")
    step = type(trainer).prediction_step

    def filled_up(self, *given, **options):
        loss, logits, labels = step(self, *given, **options)
        return loss + 1, logits, labels

    monkeypatch.setattr(type(trainer), "prediction_step", filled_up)
    found = trainer.evaluate()
    predicted = trainer.predict(inputs.val)
    logits, labels = (torch.tensor(part) for part in (predicted.predictions, predicted.label_ids))
    assert found["eval_loss"] == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-6)
    assert "eval_log_loss" not in found


def test_a_loss_that_is_not_a_number_stops_and_names_the_memes(fresh, tiny_backbones, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_backbones["text_model"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    settings = fresh(text_model=str(broken), text_epochs=1)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0 on the memes") as caught:
        train_expert("text_expert", settings)
    ids = MemeShards(shard_paths(settings.shards, "train"), pictures=False).ids
    assert sum(meme in str(caught.value) for meme in ids) >= settings.batch_size
    assert not settings.model_folder("text_expert").exists()


def test_vision_training_mirrors_about_half_of_the_pictures(fresh):
    settings = fresh()
    inputs = expert_inputs("vision_expert", settings, evaluate=True)
    processor, train_set, val_set = inputs.processor, inputs.train, inputs.val
    plain = MemeShards(shard_paths(settings.shards, "train"))
    torch.manual_seed(0)
    mirrored = 0
    for ours, sample in zip(train_set, plain, strict=True):
        upright = processor(sample["image"], return_tensors="pt")["pixel_values"][0]
        flipped = upright.flip(-1)
        assert any(torch.allclose(ours["pixel_values"], x, atol=0.02) for x in (upright, flipped))
        mirrored += not torch.allclose(ours["pixel_values"], upright, atol=0.02)
    assert 0.2 < mirrored / len(plain) < 0.8
    assert torch.equal(val_set[0]["pixel_values"], val_set[0]["pixel_values"])


def test_a_missing_expert_names_folder_and_step(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"text_expert holds no trained expert.*--from 4"):
        load_expert(tmp_path / MODELS[0])


def test_the_program_advises_its_own_configuration(tmp_path, monkeypatch, capsys):
    (tmp_path / "my config.yaml").write_text("mode: full\n")
    given = ["--config", str(tmp_path / "my config.yaml"), "--root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["experts", "text_expert", *given])
    assert experts.main() == 2
    said = capsys.readouterr().err
    assert said.strip().endswith(f"-m lib.run {shlex.join(given)} --from 3")


def test_missing_shards_name_the_command(fresh, tmp_path):
    settings = fresh().model_copy(update={"root": tmp_path / "empty"})
    with pytest.raises(FileNotFoundError, match=r"lib\.run.* --from 3"):
        train_expert("text_expert", settings)


def test_a_wrong_setting_of_the_program_is_one_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("epochz: 3\n")
    monkeypatch.setattr(sys, "argv", ["experts", "text_expert", "--config", str(file)])
    assert experts.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "c.yaml: epochz=3" in said


def test_a_tracker_is_shown_the_training(fresh, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    settings = fresh(report_to="tensorboard", text_epochs=1)
    train_expert("text_expert", settings)
    assert list((settings.run_folder / "tensorboard/text_expert").glob("events.*"))
