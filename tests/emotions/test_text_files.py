import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.emotions.text_files import MOST_TEXT, fault_of, read_texts


def rows(name, content, column="text"):
    return list(read_texts(name, io.BytesIO(content), column))


def told(found):
    return [(row.line, row.id, row.text or row.fault) for row in found]


def test_plain_lines_keep_their_numbers():
    found = told(rows("a.txt", b"\xef\xbb\xbfone\r\n\ntwo\xe2\x80\xa8lines\n \ncaf\xe9\nlast"))
    assert found == [
        (1, "1", "one"),
        (2, "2", "the text is empty"),
        (3, "3", "two\u2028lines"),
        (4, "4", "the text is empty"),
        (5, "5", "the text is not valid Unicode (character 4); save it as UTF-8"),
        (6, "6", "last"),
    ]


def test_a_csv_is_read_by_its_header():
    content = b'id,text,n\na,"two\nlines, quoted",1\n\nb,short\nc,,3\nd,caf\xe9,4\ne,fine,5\n'
    assert told(rows("a.csv", content)) == [
        (2, "a", "two\nlines, quoted"),
        (5, "2", "2 fields, expected 3"),
        (6, "c", "the text is empty"),
        (7, "d", "the text is not valid Unicode (character 4); save it as UTF-8"),
        (8, "e", "fine"),
    ]


def test_rows_that_an_open_quote_swallowed_are_said_to_be():
    content = b'text,n\nfine,1\n"open,2\nfine,3\nfine,4\n'
    (first, second) = rows("a.csv", content)
    assert first.text == "fine"
    assert (second.line, second.fault) == (3, "1 fields, expected 2 (to line 5: an open quote?)")


@pytest.mark.parametrize(
    ("content", "last"),
    [
        (b'id\ttext\n1\t"so what he said\n2\tnormal line\n3\tthe end"\n4\tlast one\n', 4),
        (b'text\tid\n"quoted start\tq1\nnormal "in" text\tq2\nlast one\t4\n', 3),
    ],
)
def test_lines_of_a_tsv_that_an_open_quote_made_one_cell_are_refused(content, last):
    first, second = rows("a.tsv", content)
    fault = f"a cell of several lines holds tabs (to line {last}: an open quote?)"
    assert (first.line, first.fault) == (2, fault)
    assert (second.id, second.text) == ("4", "last one")


def test_a_cell_of_a_tsv_may_have_several_lines_or_hold_tabs():
    content = b'text\tn\n"two\nlines"\t1\n"a\ttab"\t2\n'
    assert told(rows("a.tsv", content)) == [(2, "1", "two\nlines"), (4, "2", "a\ttab")]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_file_in_utf_16_is_refused_as_a_whole(name):
    with pytest.raises(ValueError, match=f"{name} is in UTF-16; save it as UTF-8"):
        rows(name, "text\nhi\n".encode("utf-16"))


def test_a_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"a title\nfirst\n")
    stream.readline()
    assert [row.text for row in read_texts("-", stream)] == ["first"]


def test_columns_that_cannot_be_told_apart_or_counted_are_refused():
    with pytest.raises(ValueError, match=r"a\.csv has several columns 'text'"):
        rows("a.csv", b"text,n,text\na,1,b\n")
    with pytest.raises(ValueError, match=r"a\.tsv has several columns 'id'"):
        rows("a.tsv", b"text\tid\tid\na\t1\t2\n")
    with pytest.raises(ValueError, match="no column number 0; they count from 1"):
        rows("a.tsv", b"a\tb\n", "0")


def test_a_tsv_without_header_is_read_by_number_with_its_quotes():
    assert told(rows("dev.tsv", b'"so\t1\tx\nfine"\t2\ty\nshort\n', "1")) == [
        (1, "1", '"so'),
        (2, "2", 'fine"'),
        (3, "3", "short"),
    ]
    assert rows("dev.tsv", b"a\tb\nshort\n", "2")[1].fault == "1 fields, no number 2"
    assert told(rows("a.tsv", b'text\tn\n"quo""ted"\t1\n')) == [(2, "1", 'quo"ted')]


def test_json_lines_are_checked_one_by_one():
    lines = [
        {"text": "fine", "id": 7},
        {"text": 3},
        {"text": None},
        {"other": "x"},
        {"text": "\ud800"},
        {"text": "last"},
    ]
    content = "\n".join(map(json.dumps, lines)).encode() + b"\n\n{broken\n[1]\n\xff\n"
    found = told(rows("a.jsonl", content))
    assert found[:6] == [
        (1, "7", "fine"),
        (2, "2", "the text is int, expected a string"),
        (3, "3", "the text is missing"),
        (4, "4", "the text is missing"),
        (5, "5", "the text is not valid Unicode (character 1); save it as UTF-8"),
        (6, "6", "last"),
    ]
    assert [line for line, _, _ in found[6:]] == [8, 9, 10]
    assert all("not JSON" in fault or "expected an object" in fault for _, _, fault in found[6:])


def test_parquet_that_holds_bytes_that_are_no_text_fails_by_the_row(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9", None, b"last"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    found = told(rows("a.parquet", (tmp_path / "a.parquet").read_bytes()))
    assert [text for _, _, text in found] == [
        "fine",
        "the text is not valid Unicode (character 4); save it as UTF-8",
        "the text is missing",
        "last",
    ]


def test_parquet_of_categories_fails_by_the_row_too(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    words = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    texts = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 0], pa.int8()), words)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    found = told(rows("a.parquet", (tmp_path / "a.parquet").read_bytes()))
    assert [text for _, _, text in found] == [
        "the text is not valid Unicode (character 4); save it as UTF-8",
        "fine",
        "the text is missing",
        "fine",
    ]


@pytest.mark.parametrize("twice", ["text", "id"])
def test_parquet_with_a_column_twice_is_refused(tmp_path, twice):
    names = ["text", "id", twice]
    table = pa.table([pa.array(["a"])] * 3, names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet has several columns '{twice}'; name each"):
        rows("a.parquet", (tmp_path / "a.parquet").read_bytes())


def test_parquet_of_another_type_is_refused_by_the_row(tmp_path):
    pq.write_table(pa.table({"id": ["x"], "text": [[1]]}), tmp_path / "a.parquet")
    (row,) = rows("a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert (row.id, row.fault) == ("x", "the text is list, expected a string")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_missing_column_is_named_with_those_there_are(name, tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    content = {
        "a.jsonl": b'{"body": "x"}\n',
        "a.parquet": (tmp_path / "a.parquet").read_bytes(),
    }.get(name, b"body\nx\n")
    with pytest.raises(ValueError, match=rf"{name} has no column 'text' but body"):
        rows(name, content)


def test_a_damaged_parquet_file_is_named():
    with pytest.raises(ValueError, match=r"a\.parquet is not a sound Parquet file"):
        rows("a.parquet", b"PAR1 but no more")


def test_a_text_may_be_long_but_not_endless():
    assert fault_of("a" * MOST_TEXT) is None
    assert (
        fault_of("a" * (MOST_TEXT + 1)) == "the text has 20,001 characters; at most 20,000 are read"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"id,text\nx,one\n,two\n  ,three\n"),
        ("a.jsonl", b'{"id": "x", "text": "one"}\n{"id": "", "text": "two"}\n{"text": "three"}\n'),
    ],
)
def test_an_empty_id_is_the_number_of_the_row(name, content):
    assert [row.id for row in rows(name, content)] == ["x", "2", "3"]


def test_an_id_that_no_file_can_hold_is_escaped():
    (row,) = rows("a.csv", b"id,text\nx\xff,fine\n")
    assert row.id == "x\\udcff"
