import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data.readers.registry import UNIFIED
from lib.data.taxonomy import LabelTaxonomy

MAPPED = sorted(name for name, mapping in UNIFIED.datasets.items() if mapping.fields)


@pytest.mark.parametrize(
    ("dataset", "raw", "abuse_hate", "offensive", "target_type"),
    [
        ("hateful_memes", {"label": 0}, 0, None, "none"),
        ("hateful_memes", {"label": 1}, 1, None, None),
        ("hateful_memes", {"label": 1, "gold_pc": ["sex"]}, 1, None, "gender"),
        ("hateful_memes", {"label": 1, "gold_pc": ["race", "religion"]}, 1, None, "multiple"),
        ("hateful_memes", {"label": 0, "gold_pc": ["pc_empty"]}, 0, None, "none"),
        ("hateful_memes", {"label": None}, None, None, None),
        ("mmhs150k", {"labels": [0, 0, 5]}, 0, None, "none"),
        ("mmhs150k", {"labels": [1, 1, 4]}, 1, None, "race"),
        ("mmhs150k", {"labels": [4, 1, 3]}, 1, None, "multiple"),
        ("mmhs150k", {"labels": [0, 2, 2]}, 1, None, "gender"),
        ("mami", {"misogynous": "1"}, 1, None, "gender"),
        ("mami", {"misogynous": "0"}, 0, None, "none"),
        ("harmeme", {"labels": ["very harmful", "individual"]}, 1, None, "individual"),
        ("harmeme", {"labels": ["somewhat harmful", "organization"]}, 1, None, "organisation"),
        ("harmeme", {"labels": ["not harmful"]}, 0, None, "none"),
        ("harmeme", {"labels": []}, None, None, None),
        ("harmeme", {"labels": [""]}, None, None, None),
        ("multioff", {"label": "Non-offensiv"}, 0, 0, "none"),
        ("multioff", {"label": "offensive"}, 1, 1, None),
        ("memotion", {"offensive": "not_offensive"}, 0, 0, "none"),
        ("memotion", {"offensive": "slight"}, 0, 1, None),
        ("memotion", {"offensive": "very_offensive"}, 0, 1, None),
        ("memotion", {"offensive": "hateful_offensive"}, 1, 1, None),
        ("pridemm", {"hate": 1, "target": 2.0}, 1, None, "community"),
        ("pridemm", {"hate": 0, "target": float("nan")}, 0, None, "none"),
        ("crisishatemm", {"label": "Hate", "target": "Organization"}, 1, None, "organisation"),
        ("crisishatemm", {"label": "No Hate"}, 0, None, "none"),
    ],
)
def test_maps_each_data_set(dataset, raw, abuse_hate, offensive, target_type):
    assert UNIFIED.map_labels(dataset, raw) == {
        "abuse_hate": abuse_hate,
        "offensive": offensive,
        "target_type": target_type,
    }


def test_unified_labels_pass_whatever_the_data_set():
    raw = {"abuse_hate": True, "target_type": "group", "irony": 3}
    expected = {"abuse_hate": 1, "offensive": None, "target_type": "group"}
    assert UNIFIED.map_labels("anything", raw) == expected
    assert UNIFIED.map_labels("mami", raw) == expected
    assert type(UNIFIED.map_labels("anything", raw)["abuse_hate"]) is int


@pytest.mark.parametrize(
    ("dataset", "raw", "words"),
    [
        ("mami", {"misogynous": "maybe"}, ["misogynous", "'maybe'", "['0', '1']"]),
        ("mami", {"misogyny": 1}, ["'mami'", "misogynous", "misogyny"]),
        ("own", {"label": 1}, ["'own'", "abuse_hate", "label"]),
        ("own", {"abuse_hate": "yes"}, ["abuse_hate", "'yes'", "[0, 1]"]),
        (
            "own",
            {"abuse_hate": 1, "target_type": "martian"},
            ["target_type", "'martian'", "'none'"],
        ),
        ("own", [1], ["[1]"]),
        ("harmeme", {"labels": ["not harmful", "very harmful"]}, ["contradict", "abuse_hate"]),
    ],
)
def test_what_cannot_be_mapped_is_one_clear_error(dataset, raw, words):
    with pytest.raises(ValueError) as error:
        UNIFIED.map_labels(dataset, raw, where="file.csv:3")
    assert all(word in str(error.value) for word in ["file.csv:3", *words]), error.value


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_the_majority_of_annotators_decides_whatever_their_order(votes):
    labels = UNIFIED.map_labels("mmhs150k", {"labels": votes})
    assert labels["abuse_hate"] == (sum(vote > 0 for vote in votes) >= 2)
    assert labels == UNIFIED.map_labels("mmhs150k", {"labels": votes[::-1]})
    assert (labels["target_type"] == "none") == (labels["abuse_hate"] == 0)


@pytest.mark.parametrize("dataset", MAPPED)
def test_every_data_set_tells_hate_from_its_absence(dataset):
    said = [
        meaning["abuse_hate"]
        for values in UNIFIED.datasets[dataset].fields.values()
        for meaning in values.values()
        if "abuse_hate" in meaning
    ]
    assert set(said) == {0, 1}


def test_survives_the_file(tmp_path):
    path = tmp_path / "label_taxonomy.json"
    UNIFIED.save(path)
    assert LabelTaxonomy.load(path) == UNIFIED
    assert json.loads(path.read_text())["labels"]["abuse_hate"]["values"] == [0, 1]


def break_mapping(content):
    content["datasets"]["mami"]["fields"]["misogynous"]["1"]["abuse_hate"] = 2


def break_label(content):
    content["datasets"]["mami"]["fields"]["misogynous"]["1"]["hatred"] = 1


def drop_values(content):
    del content["labels"]["offensive"]["values"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_mapping, ["mami.misogynous", "abuse_hate", "2", "[0, 1]"]),
        (break_label, ["mami.misogynous", "hatred"]),
        (drop_values, ["labels.offensive.values"]),
    ],
)
def test_a_damaged_file_is_named_with_its_field(tmp_path, damage, words):
    path = tmp_path / "label_taxonomy.json"
    UNIFIED.save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        LabelTaxonomy.load(path)
    assert all(word in str(error.value) for word in ["label_taxonomy.json", *words]), error.value


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lib\.run.* --from 3"):
        LabelTaxonomy.load(tmp_path / "label_taxonomy.json")
