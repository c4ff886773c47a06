import json
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lib.artifacts import fingerprint
from lib.config import Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.data.val_parts import val_parts
from lib.decisions.bundle import DecisionBundle
from lib.modeling.encoders import EXPERTS, Encoders
from lib.modeling.prediction_table import (
    COLUMNS,
    logits_of,
    model_fingerprints,
    models_of,
    prediction_chunks,
    predictions_to_fit,
    read_predictions,
    save_predictions,
)
from lib.modeling.predictions import packed_splits, predict_shards


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
    assert tuple(frame.columns) == COLUMNS
    for split, paths in shards.items():
        memes, rows = MemeShards(paths, pictures=False), frame[frame["split"] == split]
        assert rows["id"].tolist() == memes.ids
        assert rows["label"].tolist() == memes.labels
        assert rows["group"].tolist() == memes.groups
        parts = val_parts(memes.labels, memes.groups) if split == "val" else [""] * len(memes)
        assert rows["part"].tolist() == list(parts)
    saved = pd.read_parquet(full_root.artifact(6, "predictions.parquet"))
    pd.testing.assert_frame_equal(frame, saved, atol=1e-4)


def test_the_file_says_which_models_and_shards_the_logits_are_of(full_root, tmp_path):
    shards = packed_splits(full_root)
    frame = predict_shards({"val": shards["val"]}, full_root.models, full_root.features)
    save_predictions(frame, tmp_path / "predictions.parquet")
    written = json.loads(pq.read_schema(tmp_path / "predictions.parquet").metadata[b"PANDAS_ATTRS"])
    assert written == {
        "models": model_fingerprints(full_root.models),
        "shards": {"val": fingerprint(*shards["val"])},
    }
    read = predictions_to_fit(full_root)
    assert models_of(read) == written["models"]
    DecisionBundle.fit(read, full_root, n_resamples=2)


def test_the_half_that_calibrates_is_all_that_is_fitted_on(full_root):
    frame = predictions_to_fit(full_root)
    assert set(frame["split"]) == {"val"} and set(frame["part"]) == {"calibrate"}
    assert DecisionBundle.load(full_root).fit_part == "calibrate"


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


def test_reading_gives_one_part_of_val_alone(tmp_path, logits_frame):
    settings = Settings(mode="full", root=tmp_path)
    frame = logits_frame(20)
    frame.loc[:12, "part"] = "select"
    save_predictions(frame, settings.artifact(6, "predictions.parquet"))
    assert len(read_predictions(settings, "val")) == 20
    assert len(read_predictions(settings, "val", "select")) == 13
    assert (
        read_predictions(settings, "val", "calibrate")["id"].tolist() == frame["id"][13:].tolist()
    )
    with pytest.raises(ValueError, match="no rows of split 'val', part 'other'"):
        read_predictions(settings, "val", "other")


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_chunks_are_the_rows_of_a_split_in_their_order(tmp_path, logits_frame, rows):
    settings = Settings(mode="full", root=tmp_path)
    frames = [logits_frame(20, split) for split in ("train", "val", "test")]
    save_predictions(pd.concat(frames), settings.artifact(6, "predictions.parquet"))
    chunks = list(prediction_chunks(settings, "val", rows))
    assert max(map(len, chunks)) <= rows
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), frames[1])


def test_predictions_without_groups_and_parts_are_named_with_file_and_column(
    tmp_path, logits_frame
):
    settings = Settings(root=tmp_path)
    frame = logits_frame(20, "train").drop(columns="part")
    save_predictions(frame, settings.artifact(6, "predictions.parquet"))
    with pytest.raises(
        ValueError, match=r"predictions_pilot\.parquet has no column 'part'.*from 6"
    ):
        read_predictions(settings, "train")


def test_missing_predictions_name_file_and_step(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictions_pilot\.parquet.*--from 6"):
        read_predictions(Settings(root=tmp_path), "train")


def test_the_logits_of_a_model_have_hate_second(logits_frame):
    frame = logits_frame(10)
    logits = logits_of(frame, "mm_fusion").to_numpy()
    assert logits.shape == (10, 2)
    assert np.array_equal(logits[:, 1], frame["mm_fusion_logit_1"])
