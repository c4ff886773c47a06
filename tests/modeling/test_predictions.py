import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lib.config import MODELS, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.modeling.encoders import EXPERTS, Encoders
from lib.modeling.prediction_table import logits_of, read_predictions, save_predictions
from lib.modeling.predictions import packed_splits, predict_shards

COLUMNS = ["id", "split", "label", *(f"{model}_logit_{k}" for model in MODELS for k in (0, 1))]


def test_splits_come_in_their_order_and_empty_folders_do_not_count(tmp_path):
    settings = Settings(root=tmp_path)
    for split in ("heldout", "test", "val", "train", "empty"):
        (settings.shards / split).mkdir(parents=True)
        if split != "empty":
            (settings.shards / split / "shard-000000.tar").touch()
    assert list(packed_splits(settings)) == ["train", "val", "test", "heldout"]


def test_without_shards_the_packing_command_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lib\.run.* --from 3"):
        packed_splits(Settings(root=tmp_path))


def test_every_packed_meme_has_its_row(full_root):
    shards = packed_splits(full_root)
    frame = predict_shards(shards, full_root.models)
    assert list(frame.columns) == COLUMNS
    for split, paths in shards.items():
        memes, rows = MemeShards(paths, pictures=False), frame[frame["split"] == split]
        assert rows["id"].tolist() == memes.ids
        assert rows["label"].tolist() == memes.labels
    saved = pd.read_parquet(full_root.artifact(6, "predictions.parquet"))
    pd.testing.assert_frame_equal(frame, saved, atol=1e-4)


def test_each_encoder_sees_each_meme_once(full_root, monkeypatch):
    seen: Counter[str] = Counter()
    encode = Encoders.encode_prepared

    def counted(self, prepared, tokens=False):
        encoded = encode(self, prepared, tokens)
        seen.update({name: len(next(iter(found.values()))) for name, found in encoded.items()})
        return encoded

    monkeypatch.setattr(Encoders, "encode_prepared", counted)
    frame = predict_shards({"val": shard_paths(full_root.shards, "val")}, full_root.models)
    assert set(seen) >= set(EXPERTS)
    assert set(seen.values()) == {len(frame)}


def test_another_expert_than_fusion_was_trained_on_is_refused(full_root, tmp_path):
    shutil.copytree(full_root.models, tmp_path / "models")
    with (tmp_path / "models/vision_expert/preprocessor_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match="vision_expert is not the one that"):
        predict_shards(packed_splits(full_root), tmp_path / "models")


def test_reading_gives_one_split_alone(tmp_path, logits_frame):
    settings = Settings(mode="full", root=tmp_path)
    frame = pd.concat([logits_frame(20, split) for split in ("train", "val", "test")])
    save_predictions(frame, settings.artifact(6, "predictions.parquet"))
    val = read_predictions(settings, "val")
    pd.testing.assert_frame_equal(val, logits_frame(20, "val"))
    with pytest.raises(ValueError, match=r"predictions_full\.parquet has no rows of split 'dev'"):
        read_predictions(settings, "dev")


def test_missing_predictions_name_file_and_step(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictions_pilot\.parquet.*--from 6"):
        read_predictions(Settings(root=tmp_path), "train")


def test_the_logits_of_a_model_have_hate_second(logits_frame):
    frame = logits_frame(10)
    logits = logits_of(frame, "mm_fusion").to_numpy()
    assert logits.shape == (10, 2)
    assert np.array_equal(logits[:, 1], frame["mm_fusion_logit_1"])
