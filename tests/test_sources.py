import json

import pytest

from lib.sources import Rejected, read_manifest


def lay_out(root, rows, ocr=None):
    (root / "Step_2").mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "Step_2/data_manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if ocr is not None:
        lines = [json.dumps({"id": id_, "text": text}) for id_, text in ocr.items()]
        (root / "Step_2/ocr.jsonl").write_text("\n".join(lines), encoding="utf-8")
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


def test_text_falls_back_from_ocr_to_manifest_to_nothing(tmp_path):
    rows = [row("a", text="own"), row("b", text="own"), row("c")]
    examples = list(read_manifest(lay_out(tmp_path, rows, ocr={"a": "read"})))
    assert [example.ocr for example in examples] == ["read", "own", ""]


def test_an_empty_ocr_line_is_an_answer(tmp_path):
    (example,) = read_manifest(lay_out(tmp_path, [row(text="own")], ocr={"a": ""}))
    assert example.ocr == ""


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
        (row("b", image=...), ["data_manifest.jsonl:2", "image"]),
        (row(...), ["data_manifest.jsonl:2", "id"]),
        (row("b", split="dev"), ["data_manifest.jsonl:2", "split", "'val'"]),
        (
            row("b", labels={"abuse_hate": 2}),
            ["data_manifest.jsonl:2", "abuse_hate", "2", "[0, 1]"],
        ),
        (row("b", labels={"hate": 1}), ["data_manifest.jsonl:2", "abuse_hate", "hate"]),
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
