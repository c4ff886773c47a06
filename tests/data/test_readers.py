import json
import re
from collections import Counter

import pytest
from PIL import Image

from lib.config import Settings
from lib.data.example import Rejected
from lib.data.packing.pack import pack
from lib.data.readers.manifest import read_manifest
from lib.data.readers.registry import READERS
from lib.data.sources import examples_for


def lay_out(root, rows, ocr=None, asr=None):
    (root / "Step_2").mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "Step_2/data_manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, texts in (("ocr", ocr), ("asr", asr)):
        if texts is not None:
            lines = [json.dumps({"id": id_, "text": text}) for id_, text in texts.items()]
            (root / f"Step_2/{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def row(id_="a", **changes):
    fields = {"id": id_, "dataset": "own", "image": "img/a.png", "labels": {"abuse_hate": 1}}
    return {k: v for k, v in (fields | changes).items() if v is not ...}


def only_rejection(root):
    (rejected,) = [found for found in read_manifest(root) if isinstance(found, Rejected)]
    return f"{rejected.where}: {rejected.reason}"


def test_reads_every_field(tmp_path):
    full = row(caption="a dog", lang="de", split="val", text="manifest text", id=7)
    (example,) = read_manifest(lay_out(tmp_path, [full], ocr={"7": "ocr text"}))
    assert example.id == "7"
    assert example.image == tmp_path / "Datasets/img/a.png"
    assert (example.ocr, example.caption, example.lang) == ("ocr text", "a dog", "de")
    assert (example.split, example.group) == ("val", None)
    assert example.labels == {"abuse_hate": 1, "offensive": None, "target_type": None}


def test_fields_of_ones_own_are_packed_with_the_meme(tmp_path):
    rows = [row("a", source="forum", year=2024), row("b")]
    own, plain = read_manifest(lay_out(tmp_path, rows))
    assert own.extra == {"source": "forum", "year": 2024}
    assert plain.extra is None


def test_an_empty_group_is_none(tmp_path):
    found = read_manifest(lay_out(tmp_path, [row("a", group=""), row("b", group="g")]))
    assert [example.group for example in found] == [None, "g"]


def test_a_group_of_two_data_sets_leaks_into_no_other_split(tmp_path):
    splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    rows = [
        {"id": f"m{i}", "dataset": "a" if split == "train" else "b", "text": f"text {i}"}
        | {"labels": {"abuse_hate": i % 2}, "split": split}
        for i, split in enumerate(splits)
    ]
    for place in (1, 11):
        rows[place]["group"] = "author7"
    (leak,) = pack(read_manifest(lay_out(tmp_path, rows)), tmp_path / "out", mode="full")["dropped"]
    assert (leak["id"], leak["shares"], leak["with"]) == ("m1", "group", "m11")


def test_a_cell_that_pandas_left_empty_is_no_text_and_no_group(tmp_path):
    empty = float("nan")
    rows = [row("a", text="own", group=empty, caption=empty, lang=empty, year=empty)]
    rows += [row("b", text=empty), row("c", labels={"abuse_hate": empty})]
    found = list(read_manifest(lay_out(tmp_path, rows, ocr={"a": empty}, asr={"b": empty})))
    assert [(e.ocr, e.caption, e.lang, e.group, e.asr) for e in found] == [
        ("own", "", "en", None, ""),
        ("", "", "en", None, ""),
        ("", "", "en", None, ""),
    ]
    assert found[0].extra == {"year": None}
    assert found[2].labels["abuse_hate"] is None


@pytest.mark.parametrize("name", ["data_manifest", "ocr"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_wide_characters_is_refused_with_the_way_out(tmp_path, name, encoding):
    file = lay_out(tmp_path, [row("a"), row("b")], ocr={"a": "b"}) / f"Step_2/{name}.jsonl"
    file.write_text(file.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match=rf"{name}\.jsonl is not in UTF-8 .* save it as UTF-8"):
        list(read_manifest(tmp_path))


def test_text_falls_back_from_ocr_to_manifest_to_nothing(tmp_path):
    rows = [row("a", text="own"), row("b", text="own"), row("c")]
    examples = list(read_manifest(lay_out(tmp_path, rows, ocr={"a": "read"})))
    assert [example.ocr for example in examples] == ["read", "own", ""]


def test_an_empty_ocr_line_is_an_answer(tmp_path):
    (example,) = read_manifest(lay_out(tmp_path, [row(text="own")], ocr={"a": ""}))
    assert example.ocr == ""


def test_a_transcript_joins_the_meme_of_its_id(tmp_path):
    rows = [row("a", text="own"), row("b", text="own")]
    found = list(read_manifest(lay_out(tmp_path, rows, asr={"b": "spoken"})))
    assert [(example.ocr, example.asr) for example in found] == [("own", ""), ("own", "spoken")]


def test_a_broken_transcript_is_rejected_by_file_and_line(tmp_path):
    lay_out(tmp_path, [row("a")])
    (tmp_path / "Step_2/asr.jsonl").write_text('{"id": "a"}', encoding="utf-8")
    rejected, example = read_manifest(tmp_path)
    assert (rejected.where, example.id) == ("asr.jsonl:1", "a")


@pytest.mark.parametrize("image", [None, ""])
def test_a_row_without_a_picture_is_a_meme_of_text_alone(tmp_path, image):
    (example,) = read_manifest(lay_out(tmp_path, [row(image=image)]))
    assert example.image is None


def test_texts_of_ids_that_no_row_has_are_warned_of(tmp_path):
    rows = [{"id": "a", "dataset": "own", "labels": {"abuse_hate": 1}, "text": "own"}]
    data = lay_out(tmp_path, rows, ocr={"a": "seen", "A": "lost"}, asr={"a": "spoken"})
    with pytest.warns(
        UserWarning, match=r"ocr.jsonl: 1 of 2 ids stand in no usable row.*'A'"
    ) as met:
        (example,) = read_manifest(data)
    assert (example.ocr, example.asr, len(met)) == ("seen", "spoken", 1)


@pytest.mark.filterwarnings("ignore:.*stand in no usable row")
def test_texts_of_ids_that_no_row_has_are_counted_in_the_statistics(tmp_path):
    rows = [{"id": f"{i}.0", "dataset": "own", "labels": {"abuse_hate": i % 2}} for i in range(3)]
    data = lay_out(tmp_path, rows, ocr={"0": "lost", "1.0": "read"}, asr={"2.0": "spoken"})
    stats = pack(examples_for(Settings(root=data)), tmp_path / "out")
    assert stats["unmatched_texts"] == {"ocr.jsonl": {"count": 1, "of": 2, "ids": ["0"]}}
    (data / "Step_2/ocr.jsonl").write_text('{"id": "1.0", "text": "read"}')
    stats = pack(examples_for(Settings(root=data)), tmp_path / "out")
    assert stats["unmatched_texts"] == {}


@pytest.mark.parametrize(
    ("bad", "id_"),
    [
        (row("m16", split="dev"), "m16"),
        (row(16, split="dev"), "16"),
        (row(["m16"]), ""),
        ("[1]", ""),
        ('{"id": "m16"', ""),
    ],
)
def test_a_rejected_row_keeps_its_id(tmp_path, bad, id_):
    (rejected,) = [
        found
        for found in read_manifest(lay_out(tmp_path, [row("a"), bad]))
        if isinstance(found, Rejected)
    ]
    assert (rejected.where, rejected.id) == ("data_manifest.jsonl:2", id_)


def test_manifest_without_ocr_file(tmp_path):
    (example,) = read_manifest(lay_out(tmp_path, [row(text="own")]))
    assert example.ocr == "own"


def test_labels_of_a_known_data_set_are_mapped(tmp_path):
    rows = [row(dataset="mami", labels={"misogynous": 1, "shaming": 0})]
    (example,) = read_manifest(lay_out(tmp_path, rows))
    assert example.labels["target_type"] == "gender"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"id": "b", ', ["data_manifest.jsonl:2", "JSON"]),
        ("[1, 2]", ["data_manifest.jsonl:2", "row"]),
        (row("b", labels=...), ["data_manifest.jsonl:2", "labels", "required"]),
        (row("b", labels=1), ["data_manifest.jsonl:2", "labels"]),
        (row(...), ["data_manifest.jsonl:2", "id"]),
        (row("b", split="dev"), ["data_manifest.jsonl:2", "split", "'val'"]),
        (
            row("b", labels={"abuse_hate": 2}),
            ["data_manifest.jsonl:2", "abuse_hate", "2", "[0, 1]"],
        ),
        (row("b", labels={"hate": 1}), ["data_manifest.jsonl:2", "abuse_hate", "hate"]),
        (row("b", labels={"abuse_hate": float("inf")}), ["data_manifest.jsonl:2", "abuse_hate"]),
        (row("b", image="../secret.png"), ["data_manifest.jsonl:2", "image", "Datasets/"]),
        (row("b", image="x/../../secret.png"), ["image", "Datasets/"]),
        (row("b", image="/etc/secret.png"), ["image", "Datasets/"]),
    ],
)
def test_a_bad_row_is_rejected_by_line_and_field_and_the_rest_is_read(tmp_path, bad, words):
    found = list(read_manifest(lay_out(tmp_path, [row("a"), bad, row("c")])))
    assert [example.id for example in found if not isinstance(example, Rejected)] == ["a", "c"]
    message = only_rejection(tmp_path)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (json.dumps([row("b")]), "field row: expected one JSON object a line, this is a list"),
        ("7", "field row: expected one JSON object a line, this is none"),
        (
            row("b", image="/data/Datasets/mine/0.png"),
            "field image: '/data/Datasets/mine/0.png' is an absolute path; give it relative to "
            "Datasets/",
        ),
    ],
)
def test_a_list_and_an_absolute_path_are_told_as_what_they_are(tmp_path, bad, reason):
    lay_out(tmp_path, [row("a"), bad])
    (rejected,) = [found for found in read_manifest(tmp_path) if isinstance(found, Rejected)]
    assert rejected.reason == reason


def test_bytes_that_are_not_text_are_rejected_by_line(tmp_path):
    lay_out(tmp_path, [row("a")])
    with (tmp_path / "Step_2/data_manifest.jsonl").open("ab") as stream:
        stream.write(b'{"id": "\xff"}\n')
    assert "data_manifest.jsonl:2" in only_rejection(tmp_path)


def test_byte_order_mark_and_blank_lines_are_harmless(tmp_path):
    lay_out(tmp_path, ["\ufeff" + json.dumps(row("a")), "", row("b")])
    assert [example.id for example in read_manifest(tmp_path)] == ["a", "b"]


def test_repeated_id_names_both_lines(tmp_path):
    lay_out(tmp_path, [row("a"), row("b"), row("a")])
    with pytest.raises(ValueError, match=r"data_manifest\.jsonl.*'a'.*line 1.*line 3"):
        list(read_manifest(tmp_path))


def test_no_manifest_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Step_2/data_manifest\.jsonl"):
        list(read_manifest(tmp_path))


# ------------------------------------------------------------------------- public data sets


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def jsonl(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "teal").save(path)
    return path


def examples(name, folder):
    found = list(READERS[name](folder))
    assert not [row for row in found if isinstance(row, Rejected)]
    ids = [example.id for example in found]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(rf"{name}-[A-Za-z0-9_-]+", id_) for id_ in ids)
    return {example.id.removeprefix(f"{name}-"): example for example in found}


def rejections(name, folder):
    return [row for row in READERS[name](folder) if isinstance(row, Rejected)]


def meme(id_, label=..., img=None, text="a text"):
    row = {"id": id_, "img": img or f"img/{id_:05d}.png", "label": label, "text": text}
    return {key: value for key, value in row.items() if value is not ...}


def test_hateful_memes_takes_img_and_counts_a_shared_dev_row_once(tmp_path):
    jsonl(tmp_path / "train.jsonl", meme(8291, 1), meme(46971, 0, img="img/46917.png"))
    jsonl(tmp_path / "dev_seen.jsonl", meme(1, 0), meme(2, 1))
    jsonl(tmp_path / "dev_unseen.jsonl", meme(2, 1), meme(3, 0))
    jsonl(tmp_path / "test_seen.jsonl", meme(4, 1), meme(5))
    jsonl(tmp_path / "test_unseen.jsonl", meme(6, 0))
    found = examples("hateful_memes", tmp_path)
    assert Counter(example.split for example in found.values()) == dict(train=2, val=3, test=3)
    assert found["8291"].image == tmp_path / "img/08291.png"
    assert found["46971"].image == tmp_path / "img/46917.png"
    assert found["8291"].ocr == "a text"
    assert [found[key].labels["abuse_hate"] for key in ("8291", "46971", "5")] == [1, 0, None]


def test_hateful_memes_phase_1_and_2_together_keep_the_labelled_row(tmp_path):
    jsonl(tmp_path / "test_seen.jsonl", meme(4, 1))
    jsonl(tmp_path / "test.jsonl", meme(4), meme(7))
    jsonl(tmp_path / "dev.jsonl", meme(1, 0))
    found = examples("hateful_memes", tmp_path)
    assert [found[key].labels["abuse_hate"] for key in "147"] == [0, 1, None]
    assert [found[key].split for key in "147"] == ["val", "test", "test"]


def test_hateful_memes_fine_grained_annotations_name_the_target(tmp_path):
    jsonl(tmp_path / "train.jsonl", *(meme(i, int(i < 4)) for i in range(1, 6)))
    gold = {1: ["religion"], 2: ["sex"], 3: ["race", "religion"], 4: ["pc_empty"]}
    jsonl(
        tmp_path / "data/annotations/train.json",
        *({"id": i, "gold_pc": pc, "gold_attack": ["mocking"]} for i, pc in gold.items()),
    )
    found = examples("hateful_memes", tmp_path)
    targets = [found[str(i)].labels["target_type"] for i in range(1, 6)]
    assert targets == ["religion", "gender", "multiple", "none", "none"]


def test_mmhs150k_takes_the_majority_and_the_text_in_the_picture(tmp_path):
    votes = {"11": [0, 0, 3], "12": [1, 1, 0], "13": [2, 3, 0], "14": [5, 5, 5]}
    truth = {
        tweet: {"tweet_url": "", "labels": given, "img_url": "", "tweet_text": f"tweet {tweet}"}
        for tweet, given in votes.items()
    }
    write(tmp_path / "MMHS150K_GT.json", json.dumps(truth))
    write(tmp_path / "img_txt/12.json", json.dumps({"img_text": "overlaid"}))
    for split, ids in {"train": "11\n12\n", "val": "13\n", "test": "14\n"}.items():
        write(tmp_path / f"splits/{split}_ids.txt", ids)
    found = examples("mmhs150k", tmp_path)
    assert [found[key].labels["abuse_hate"] for key in votes] == [0, 1, 1, 1]
    assert [found[key].labels["target_type"] for key in votes] == [
        "none",
        "race",
        "multiple",
        "other",
    ]
    assert [found[key].split for key in votes] == ["train", "train", "val", "test"]
    assert (found["11"].ocr, found["12"].ocr) == ("", "overlaid")
    assert found["12"].caption == "tweet 12"
    assert found["12"].image == tmp_path / "img_resized/12.jpg"


MAMI_HEADER = "file_name\tmisogynous\tshaming\tstereotype\tobjectification\tviolence\t"


def test_mami_reads_a_byte_order_mark_quotes_and_headerless_test_labels(tmp_path):
    rows = '1.jpg\t0\t0\t0\t0\t0\tMilk\r\n10.jpg\t1\t0\t1\t0\t0\t"two\nlines"\r\n'
    write(tmp_path / "TRAINING/training.csv", f"\ufeff{MAMI_HEADER}Text Transcription\r\n{rows}")
    write(tmp_path / "trial/trial.csv", f"\ufeff{MAMI_HEADER}Text Transcription\r\n{rows}")
    test = "\ufefffile_name\tText Transcription\n15236.jpg\tone\n15805.jpg\ttwo\n15254.jpg\tthree\n"
    write(tmp_path / "test/Test.csv", test)
    write(tmp_path / "test_labels.txt", "15236.jpg\t1\t0\t0\t1\t0\n15805.jpg\t0\t0\t0\t0\t0\n")
    found = examples("mami", tmp_path)
    order = ("1", "10", "15236", "15805", "15254")
    assert [found[key].labels["abuse_hate"] for key in order] == [0, 1, 1, 0, None]
    assert [found[key].split for key in order] == ["train", "train", "test", "test", "test"]
    assert found["10"].labels["target_type"] == "gender"
    assert found["10"].ocr == "two\nlines"
    assert found["10"].image == tmp_path / "TRAINING/10.jpg"
    assert found["15236"].image == tmp_path / "test/15236.jpg"
    assert found["10"].extra["own_labels"]["stereotype"] == "1"


def test_harmeme_reads_both_parts_and_leaves_an_empty_label_unlabelled(tmp_path):
    def harm(id_, *labels):
        return {"id": id_, "image": f"{id_}.png", "labels": list(labels), "text": "a text"}

    notes = tmp_path / "HarMeme_V1/Annotations"
    jsonl(
        notes / "Harm-C/train.jsonl",
        harm("covid_memes_1", "very harmful", "individual"),
        harm("covid_memes_2", "somewhat harmful", "community"),
        harm("covid_memes_3", "not harmful"),
    )
    jsonl(notes / "Harm-C/val.jsonl", harm("covid_memes_4", "not harmful"))
    jsonl(notes / "Harm-P/test_v1.jsonl", harm("memes_1", ""), harm("memes_2", "not harmful"))
    jsonl(notes / "Harm-P/test.jsonl", harm("memes_2", "very harmful", "society"))
    place = picture(tmp_path / "HarMeme_V1/harmeme_images_us_pol/memes_2.png")
    found = examples("harmeme", tmp_path)
    assert Counter(example.split for example in found.values()) == dict(train=3, val=1, test=2)
    hate = {key: example.labels["abuse_hate"] for key, example in found.items()}
    assert hate == {
        "covid_memes_1": 1,
        "covid_memes_2": 1,
        "covid_memes_3": 0,
        "covid_memes_4": 0,
        "memes_1": None,
        "memes_2": 0,
    }
    assert found["covid_memes_1"].labels["target_type"] == "individual"
    assert found["covid_memes_2"].labels["target_type"] == "community"
    assert found["memes_2"].image == place


def test_harmeme_spells_a_missing_text_null(tmp_path):
    rows = [
        {"id": f"covid_memes_{i}", "image": f"{i}.png", "labels": ["not harmful"], "text": text}
        for i, text in enumerate(["null", "null and void"])
    ]
    jsonl(tmp_path / "Annotations/Harm-C/val.jsonl", *rows)
    assert [example.ocr for example in READERS["harmeme"](tmp_path)] == ["", "null and void"]


def test_multioff_knows_the_spelling_of_its_negative_label(tmp_path):
    header = "image_name,sentence,label\n"
    for name, rows in {
        "Training": 'a b.png,"one, two\nthree",offensive\nc.jpg,four,Non-offensiv\n',
        "Validation": "d.png,five,Non-offensiv\n",
        "Testing": "e.png,,offensive\n",
    }.items():
        write(tmp_path / f"Split Dataset/{name}_meme_dataset.csv", header + rows)
    found = list(READERS["multioff"](tmp_path))
    assert [example.labels["abuse_hate"] for example in found] == [1, 0, 0, 1]
    assert [example.split for example in found] == ["train", "train", "val", "test"]
    assert [example.ocr for example in found] == ["one, two\nthree", "four", "five", ""]
    assert found[0].image == tmp_path / "Labelled Images/a b.png"
    assert re.fullmatch(r"multioff-a_b-[0-9a-f]{8}", found[0].id)


def test_memotion_maps_four_degrees_and_decodes_the_test(tmp_path):
    write(
        tmp_path / "labels.csv",
        ",image_name,text_ocr,text_corrected,humour,sarcasm,offensive,motivational,overall_sentiment\n"
        "0,image_1.jpg,OCR,right,hilarious,general,not_offensive,not_motivational,positive\n"
        "1,image_2.jpg,read,,funny,general,slight,motivational,neutral\n"
        "2,image_3.jpg,,,funny,general,very_offensive,motivational,negative\n"
        "3,image_4.jpg,x,y,funny,general,hateful_offensive,motivational,negative\n",
    )
    write(
        tmp_path / "test/2000_testdata.csv",
        "Image_name,Image_URL,OCR_extracted_text,corrected_text\n"
        "a.jpg,http,x,one\nb.jpg,http,x,two\nc.jpg,http,x,three\n",
    )
    codes = "Image_name,Labels\na.jpg,-1_1110_1231\nb.jpg,0_1100_1300\n"
    write(tmp_path / "test/Meme_groundTruth .csv", codes)
    found = examples("memotion", tmp_path)
    order = ("image_1", "image_2", "image_3", "image_4", "test-a", "test-b", "test-c")
    assert [found[key].labels["abuse_hate"] for key in order] == [0, 0, 0, 1, 1, 0, None]
    assert [found[key].labels["offensive"] for key in order] == [0, 1, 1, 1, 1, 0, None]
    assert [found[key].ocr for key in order[:5]] == ["right", "read", "", "y", "one"]
    assert [found[key].split for key in order] == ["train"] * 4 + ["test"] * 3
    assert found["image_1"].image == tmp_path / "images/image_1.jpg"


def test_pridemm_reads_targets_of_hateful_memes(tmp_path):
    write(
        tmp_path / "PrideMM.csv",
        "name,text,split,hate,target,stance,humour\n"
        "img_1.png,one,train,0,,1,1\n"
        "img_2.png,None,train,1,0.0,2,0\n"
        "img_3.png,three,val,1,1.0,2,0\n"
        "img_4.png,four,test,1,2.0,2,0\n"
        "img_5.png,five,test,1,3.0,2,0\n",
    )
    found = examples("pridemm", tmp_path).values()
    assert [example.labels["abuse_hate"] for example in found] == [0, 1, 1, 1, 1]
    targets = [example.labels["target_type"] for example in found]
    assert targets == ["none", "undirected", "individual", "community", "organisation"]
    assert [example.split for example in found] == ["train", "train", "val", "test", "test"]
    assert [example.ocr for example in found][:2] == ["one", ""]


def test_crisishatemm_reads_labels_off_folders_and_joins_its_two_tasks(tmp_path):
    for place in (
        "STask_A_train/Hate Speech/11.jpg",
        "STask_A_train/No Hate Speech/12.jpg",
        "STask_B_train/community/11.jpg",
        "STask_B_train/organization/13.jpg",
        "STask_A_eval/no_hate_speech/21.jpg",
        "STask_A_test/31.jpg",
    ):
        picture(tmp_path / place)
    write(tmp_path / "text/train.csv", "index,text\n11,first\n12,second\n")
    found = examples("crisishatemm", tmp_path)
    order = ("11", "12", "13", "21", "31")
    assert [found[key].labels["abuse_hate"] for key in order] == [1, 0, 1, 0, None]
    targets = [found[key].labels["target_type"] for key in order]
    assert targets == ["community", "none", "organisation", "none", None]
    assert [found[key].split for key in order] == ["train", "train", "train", "val", "test"]
    assert [found[key].ocr for key in order[:3]] == ["first", "second", ""]


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_folder_without_label_files_is_an_error_that_names_them(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        READERS[name](tmp_path)


def test_contradictory_labels_reject_the_id_and_name_both_lines(tmp_path):
    jsonl(tmp_path / "dev_seen.jsonl", meme(1, 0), meme(2, 1))
    jsonl(tmp_path / "dev_unseen.jsonl", meme(3, 1), meme(1, 1))
    found = list(READERS["hateful_memes"](tmp_path))
    (rejected,) = [row for row in found if isinstance(row, Rejected)]
    assert rejected.id == "hateful_memes-1"
    assert "dev_seen.jsonl:1" in rejected.reason and "dev_unseen.jsonl:2" in rejected.reason
    assert len(found) == 3


def test_contradictory_folders_reject_the_picture(tmp_path):
    for place in ("Hate Speech/1.jpg", "No Hate Speech/1.jpg", "Hate Speech/2.jpg"):
        picture(tmp_path / place)
    (rejected,) = rejections("crisishatemm", tmp_path)
    assert "No Hate Speech/1.jpg" in rejected.reason


def test_a_row_in_train_and_test_stays_in_test(tmp_path):
    jsonl(tmp_path / "train.jsonl", meme(1, 0))
    jsonl(tmp_path / "test_seen.jsonl", meme(1, 0))
    assert examples("hateful_memes", tmp_path)["1"].split == "test"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "train.jsonl:2: not a line of JSON"),
        ("[1]", "train.jsonl:2: not a JSON object"),
        (json.dumps(meme(5, 1) | {"img": None}), "train.jsonl:2: field img: missing"),
        (json.dumps(meme(5, 1, img=5)), "train.jsonl:2: field img: 5 is no file name"),
        (json.dumps(meme(5, 7)), "train.jsonl:2: labels: label has the value 7"),
        (json.dumps(meme(5, 1, img="../../secret.png")), "train.jsonl:2: the picture"),
        (json.dumps(meme(5, 1, img="/etc/secret.png")), "train.jsonl:2: the picture"),
    ],
)
def test_a_malformed_line_is_rejected_by_file_line_and_field(tmp_path, line, told):
    write(tmp_path / "train.jsonl", json.dumps(meme(1, 0)) + "\n" + line + "\n")
    (rejected,) = rejections("hateful_memes", tmp_path)
    assert f"{rejected.where}: {rejected.reason}".startswith(told)


def test_a_ragged_row_is_rejected_by_file_and_line(tmp_path):
    write(tmp_path / "training.csv", f"{MAMI_HEADER}Text Transcription\n1.jpg\t0\t0\n")
    (rejected,) = rejections("mami", tmp_path)
    assert rejected.where == "training.csv:2" and "3 fields, expected 7" in rejected.reason


def test_an_unknown_label_is_rejected_with_the_allowed_ones(tmp_path):
    write(tmp_path / "Testing_meme_dataset.csv", "image_name,sentence,label\na.png,x,maybe\n")
    (rejected,) = rejections("multioff", tmp_path)
    assert rejected.where == "Testing_meme_dataset.csv:2"
    assert "'maybe'" in rejected.reason and "non-offensiv" in rejected.reason


def test_a_table_that_is_not_text_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "Training_meme_dataset.csv"
    path.write_bytes(b"image_name,sentence,label\na.png,caf\xe9,offensive\n")
    with pytest.raises(ValueError, match=r"Training_meme_dataset\.csv: line 2"):
        list(READERS["multioff"](tmp_path))


def test_mmhs150k_that_is_not_json_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "MMHS150K_GT.json", '{"1": ')
    with pytest.raises(ValueError, match=r"MMHS150K_GT\.json is not valid JSON"):
        READERS["mmhs150k"](tmp_path)


def test_mmhs150k_rejects_a_tweet_whose_text_file_is_broken(tmp_path):
    tweets = {tweet: {"tweet_text": "a tweet", "labels": [0, 0, 0]} for tweet in ("1", "2")}
    write(tmp_path / "MMHS150K_GT.json", json.dumps(tweets))
    write(tmp_path / "img_txt/2.json", "{")
    rejected, kept = READERS["mmhs150k"](tmp_path)
    assert isinstance(rejected, Rejected) and kept.id == "mmhs150k-1"
    assert rejected.id == "mmhs150k-2" and "2.json is not valid JSON" in rejected.reason
