import gzip
import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lib.config import MODELS
from lib.serving.histograms import Histograms
from lib.serving.service import judging
from tests.serving.bad_inputs import ODD_MEMES, TEXT

HEADERS = {"content-type": "application/json"}


def same(answer, expected):
    """Whether two answers of one meme are equal, as those of two doors must be."""
    numbers = {"prob_hate", "experts", "rests_on", "logits"}
    for name in numbers:
        assert answer[name] == pytest.approx(expected[name], abs=1e-5), name
    rest = set(expected) - numbers
    return {k: answer[k] for k in rest} == {k: expected[k] for k in rest}


def sent(text, image):
    """The arguments of a form; a text that is missing is no field."""
    return {
        "data": {} if text is None else {"text": text},
        "files": {"image": ("meme", image)} if image is not None else {"nothing": ("", b"")},
    }


def test_one_meme_is_answered_as_by_the_classifier(client, classifier, picture, as_json):
    for text, image in ((TEXT, picture), (TEXT, None), ("", picture)):
        expected = classifier.predict(text, image)
        by_json = client.post("/predict", json=as_json(text, image))
        assert by_json.status_code == 200
        assert same(by_json.json(), expected)
    by_form = client.post("/predict", data={"text": TEXT}, files={"image": ("a.jpg", picture)})
    assert same(by_form.json(), classifier.predict(TEXT, picture))
    only_text = client.post("/predict", files={"text": (None, TEXT)})
    assert same(only_text.json(), classifier.predict(TEXT, None))


def test_a_batch_keeps_its_order_and_a_bad_meme_does_not_fail_it(client, classifier, as_json):
    memes = [as_json("one", None), {"text": 7}, as_json("two", b"rubbish"), "no meme"]
    memes += [{"txt": "three"}, {"text": "x", "image": "/etc/passwd"}, as_json("four", None)]
    answers = client.post("/predict_batch", json=memes)
    assert answers.status_code == 200
    first, number, rubbish, word, field, path, last = answers.json()
    assert same(first, classifier.predict("one", None))
    assert same(last, classifier.predict("four", None))
    assert number == {"error": "text is int, expected a string, or None to read it", "status": 422}
    assert "not a picture" in rubbish["error"]
    assert "expected an object with text and image, got a string" in word["error"]
    assert "meme 4: there is no such field; known are text and image" in field["error"]
    assert "image is not base64" in path["error"]


def test_a_batch_may_be_a_form(client, classifier, picture):
    form = [("text", (None, "one")), ("text", (None, "two"))]
    texts = client.post("/predict_batch", files=form).json()
    assert [answer["text"] for answer in texts] == ["one", "two"]
    both = client.post("/predict_batch", files=[*form, *[("image", ("a.jpg", picture))] * 2]).json()
    assert same(both[1], classifier.predict("two", picture))
    uneven = client.post("/predict_batch", files=[*form, ("image", ("a.jpg", picture))])
    assert (uneven.status_code, uneven.json()["error"][:23]) == (422, "2 texts but 1 images; g")


@pytest.mark.parametrize("meme", ODD_MEMES, ids=lambda meme: meme.name)
def test_bad_and_odd_memes_by_json(client, classifier, as_json, meme):
    body = json.dumps(as_json(meme.text, meme.picture)).encode()
    found = client.post("/predict", content=body, headers=HEADERS)
    if meme.said is None:
        assert found.status_code == 200, found.text
        assert same(found.json(), classifier.predict(meme.text, meme.picture))
    else:
        assert found.status_code == 422
        assert re.search(meme.said, found.json()["error"])
        assert "\n" not in found.json()["error"]


def test_bad_and_odd_memes_in_batches(client, as_json):
    for start in range(0, len(ODD_MEMES), 30):
        part = ODD_MEMES[start : start + 30]
        body = json.dumps([as_json(meme.text, meme.picture) for meme in part]).encode()
        found = client.post("/predict_batch", content=body, headers=HEADERS).json()
        for meme, answer in zip(part, found, strict=True):
            said = answer.get("error")
            assert (said is None) == (meme.said is None), meme.name
            assert said is None or re.search(meme.said, said), meme.name


@pytest.mark.parametrize("meme", ODD_MEMES, ids=lambda meme: meme.name)
def test_bad_and_odd_memes_by_form(client, meme):
    if not isinstance(meme.text, str | None) or "half" in meme.name or "halves" in meme.name:
        pytest.skip("a form has no such text")
    files = [] if meme.text is None else [("text", (None, meme.text.encode()))]
    files += [] if meme.picture is None else [("image", ("a picture", meme.picture))]
    found = client.post("/predict", files=files or [("text", (None, ""))])
    if meme.said is None:
        assert found.status_code == 200, found.text
    else:
        assert found.status_code == 422
        assert re.search(meme.said, found.json()["error"])


FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\nhello\r\n'
BAD_REQUESTS = {
    "no body": (b"", HEADERS, 400, "not JSON"),
    "half of a document": (b'{"text": "a', HEADERS, 400, "not JSON .*at 9"),
    "not UTF-8": (b'{"text": "\xff"}', HEADERS, 400, "not JSON .*UTF-8"),
    "nested deeply": (b"[" * 100_000, HEADERS, 400, "too deeply nested|not JSON"),
    "a long number": (b"1" * 10_000, HEADERS, 400, "a number is too long"),
    "a list": (b"[]", HEADERS, 422, "expected an object with text and image, got a list"),
    "null": (b"null", HEADERS, 422, "expected an object with text and image, got nothing"),
    "an empty object": (b"{}", HEADERS, 422, "neither text nor picture"),
    "a field too many": (b'{"text": "a", "url": "b"}', HEADERS, 422, "no such field; known are"),
    "a path": (b'{"image": "/etc/passwd"}', HEADERS, 422, "image is not base64"),
    "an address": (b'{"image": "file:///etc/passwd"}', HEADERS, 422, "image is not base64"),
    "wrong base64": (b'{"image": "abc"}', HEADERS, 422, "image is not base64"),
    "base64 of no letters": ('{"image": "é"}'.encode(), HEADERS, 422, "image is not base64"),
    "a number for a picture": (b'{"image": 7}', HEADERS, 422, "image is a number, expected"),
    "a list for a picture": (b'{"image": [1]}', HEADERS, 422, "image is a list, expected"),
    "a text twice in JSON": (b'{"text": "a", "text": "b"}', HEADERS, 422, "given twice"),
    "a compressed document": (
        gzip.compress(b'{"text": "a"}'),
        HEADERS | {"content-encoding": "gzip"},
        415,
        "compressed",
    ),
    "plain text": (b"hello", {"content-type": "text/plain"}, 415, "send multipart"),
    "no content type": (b"{}", {}, 415, "send multipart"),
    "an encoded form": (
        b"text=a",
        {"content-type": "application/x-www-form-urlencoded"},
        415,
        "send multipart",
    ),
    "no boundary": (PART, {"content-type": "multipart/form-data"}, 400, "Missing boundary"),
    "another boundary": (PART.replace(b"--b", b"--c"), FORM, 400, "not a multipart form"),
    "an empty form": (b"", FORM, 400, "last boundary is missing"),
    "half of a form": (PART, FORM, 400, "last boundary is missing"),
    "rubbish for a form": (b"\0" * 999, FORM, 400, "not a multipart form"),
    "a field without a name": (
        b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n",
        FORM,
        400,
        '"name" must be provided',
    ),
    "half a character in a form": (
        PART.replace(b"hello", b"hi \xed\xa0\x80") + b"--b--\r\n",
        FORM,
        400,
        "not UTF-8",
    ),
    "another encoding of a form": (
        PART.replace(b"hello", "märz".encode("latin-1")) + b"--b--\r\n",
        {"content-type": "multipart/form-data; boundary=b; charset=latin-1"},
        400,
        "not UTF-8",
    ),
    "an encoding that is none": (
        PART + b"--b--\r\n",
        {"content-type": "multipart/form-data; boundary=b; charset=undefined"},
        400,
        "not UTF-8",
    ),
    "a field unknown": (PART.replace(b'"text"', b'"words"') + b"--b--\r\n", FORM, 422, "known are"),
    "a text twice": (PART + PART + b"--b--\r\n", FORM, 422, "text is given twice"),
    "a thousand texts": (PART * 1000 + b"--b--\r\n", FORM, 400, "Too many fields"),
    "a picture as a field": (
        PART.replace(b'"text"', b'"image"') + b"--b--\r\n",
        FORM,
        422,
        "image is a plain field; send it as a file",
    ),
    "a text as a file": (
        PART.replace(b'"text"', b'"text"; filename="a"') + b"--b--\r\n",
        FORM,
        422,
        "text is a file; send it as a plain field",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_that_cannot_be_read_is_told_why(client, name):
    body, headers, status, said = BAD_REQUESTS[name]
    found = client.post("/predict", content=body, headers=headers)
    assert found.status_code == status, found.text
    assert re.search(said, found.json()["error"])


def test_a_batch_that_cannot_be_read_is_told_why(client):
    for body, status, said in (
        ({"text": "a"}, 422, "expected a JSON list of memes, got an object"),
        ([{"text": "a"}] * 65, 422, "65 memes; at most 64 a request"),
        ([0] * 100_000, 422, "100000 memes; at most 64 a request"),
    ):
        found = client.post("/predict_batch", json=body)
        assert (found.status_code, said in found.json()["error"]) == (status, True)
    assert client.post("/predict_batch", json=[]).json() == []


def test_a_meme_of_a_batch_with_a_field_twice_fails_alone(client):
    body = b'[{"text": "a", "text": "b"}, {"text": "a"}]'
    bad, good = client.post("/predict_batch", content=body, headers=HEADERS).json()
    assert bad["status"] == 422 and "meme 0: a field is given twice" in bad["error"]
    assert 0 < good["prob_hate"] < 1


def test_an_object_with_a_name_twice_is_called_an_object(client):
    for path, body in (
        ("/predict", b'{"image": {"a": 1, "a": 2}}'),
        ("/predict_batch", b'{"a":1,"a":2}'),
    ):
        found = client.post(path, content=body, headers=HEADERS)
        assert found.status_code == 422 and "an object" in found.json()["error"]


def test_a_balancer_may_ask_for_the_head_alone(client):
    for path in ("/healthz", "/readyz"):
        found = client.head(path)
        assert (found.status_code, found.headers["content-type"]) == (200, "application/json")


def test_paths_and_methods_that_are_not_there(client):
    assert client.get("/etc/passwd").json() == {"error": "there is no such path"}
    assert client.get("/predict").status_code == 405
    assert client.get("/static-offline-docs/..%2f..%2fcore.py").status_code == 404


def test_the_model_says_what_it_is(client, classifier):
    found = client.get("/model").json()
    bundle = classifier.decision
    assert found["mode"] == "full"
    assert found["fingerprints"] == bundle.fingerprints
    assert found["temperatures"] == bundle.temperatures
    assert found["thresholds"].keys() == set(MODELS)
    assert found["policy"]["block"] == bundle.policy.block
    assert found["engine"]["device"] == "cpu"


def test_without_a_reader_of_pictures_a_text_is_asked_for(client, picture, monkeypatch):
    monkeypatch.setattr(judging, "_ocr_is_installed", lambda: False)
    found = client.post("/predict", files={"image": ("a.jpg", picture)})
    assert found.status_code == 501
    assert "pip install 'calibrated-memes[ocr]'" in found.json()["error"]


def test_the_text_may_be_read_off_the_picture(client, classifier, picture, monkeypatch):
    from lib.data import ocr

    monkeypatch.setattr(ocr, "read_text", lambda image: f"{image.width} by {image.height}")
    found = client.post("/predict", files={"image": ("a.jpg", picture)}).json()
    assert (found["text"], found["text_from"]) == ("90 by 60", "picture")
    assert found["prob_hate"] == pytest.approx(
        classifier.predict("90 by 60", picture)["prob_hate"], abs=1e-5
    )


def test_a_token_is_asked_for_where_there_is_one(client_of):
    with client_of(token="a secret word") as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic YTpi"}):
            for path in ("/predict", "/predict_batch"):
                found = client.post(path, json={"text": "a"}, headers=sent)
                assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
            for path in ("/model", "/metrics"):
                assert client.get(path, headers=sent).status_code == 401
        known = {"authorization": "Bearer a secret word"}
        assert client.post("/predict", json={"text": "a"}, headers=known).status_code == 200


def test_the_page_of_the_interface_needs_no_other_server(client):
    page = client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/predict_batch", "/model", "/metrics", "/healthz", "/readyz"} == set(paths)
    body = paths["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}


def test_the_described_answer_is_the_given_one(client, as_json):
    described = client.get("/openapi.json").json()["components"]["schemas"]
    answer = client.post("/predict", json=as_json(TEXT, None)).json()
    assert set(described["Answer"]["properties"]) == set(answer)
    for part, name in (("Experts", "experts"), ("RestsOn", "rests_on")):
        assert set(described[part]["properties"]) == set(answer[name])
    assert set(described["ModelInfo"]["required"]) <= set(client.get("/model").json())


def test_metrics_count_requests_memes_and_batches(client_of, as_json):
    with client_of() as client:
        client.post("/predict_batch", json=[as_json("a", None), as_json("b", None), {"text": 7}])
        client.post("/predict", json={"text": 7})
        text = client.get("/metrics").text
    samples = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["memes_requests_total", "/predict", "422"] == 1
    assert samples["memes_requests_total", "/predict_batch", "200"] == 1
    assert samples["memes_faults_total", "422"] == 2
    assert samples["memes_batch_size_sum",] == 2
    assert samples["memes_accepted",] == 0
    decided = [v for k, v in samples.items() if k[0] == "memes_decisions_total"]
    assert sum(decided) == 2


def test_histograms_are_kept_and_added_to(client_of, tmp_path):
    file = tmp_path / "Step_8/histograms_full.json"
    for memes in (2, 3):
        with client_of(root=tmp_path) as client:
            client.post("/predict_batch", json=[{"text": "a"}] * memes + [{"text": 1}])
    found = Histograms.read(file)
    assert found.n == 5
    assert sum(found.words["decision"].values()) == 5
    file.write_text("{}")
    with client_of(root=tmp_path, histogram_every=0.05) as client:
        client.post("/predict", json={"text": "a"})
        while "prob_hate" not in file.read_text():
            client.get("/healthz")
    assert Histograms.read(file).n == 1
