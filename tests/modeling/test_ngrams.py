import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from lib.data.text import combined_text, words_of
from lib.modeling.ngrams import NGRAMS, Ngrams, out_of_fold_ngrams

NAMES = ["blorps", "quims", "trunds"]


def memes(n=60):
    """Those that insult an invented people, in one of two spellings, are hate."""
    texts, labels = [], []
    for i in range(n):
        verb = "despise" if i % 2 else "like"
        texts.append(combined_text(f"we {verb} the {NAMES[i % 3]} number {i}", "a hill"))
        labels.append(i % 2)
    return texts, labels


def test_it_is_scikit_learns_pipeline():
    texts, labels = memes()
    words = [words_of(text) for text in texts]
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    peer = make_pipeline(union, LogisticRegression(C=2.0, max_iter=1000)).fit(words, labels)
    found = Ngrams.fit(texts, labels).prepare(texts)
    assert found.tolist() == pytest.approx(peer.decision_function(words).tolist(), abs=1e-5)


def test_letters_see_through_a_misread_word():
    texts, labels = memes()
    found = Ngrams.fit(texts, labels).prepare(
        [combined_text("they desp1se us"), combined_text("they l1ke us")]
    )
    assert found[0] > found[1]


def test_it_comes_back_from_its_files(tmp_path):
    texts, labels = memes()
    model = Ngrams.fit(texts, labels)
    model.save(tmp_path / "ngrams")
    back = Ngrams.load(tmp_path / "ngrams")
    assert torch.equal(back.prepare(texts), model.prepare(texts))
    assert back.fingerprint() == model.fingerprint()
    assert back(back.prepare(texts), tokens=True)[NGRAMS].shape == (60,)
    other = Ngrams.fit(texts[:40], labels[:40])
    assert other.fingerprint() != model.fingerprint()


def test_out_of_fold_scores_have_not_seen_the_label():
    texts, _ = memes()
    labels = np.random.default_rng(0).integers(0, 2, len(texts))
    fold = np.arange(len(texts)) % 3
    unseen = out_of_fold_ngrams(texts, labels, fold)
    seen = Ngrams.fit(texts, labels).prepare(texts)
    assert ((seen > 0).numpy() == labels).mean() > 0.9
    first = np.flatnonzero(fold == 0)
    alone = Ngrams.fit([texts[i] for i in range(60) if fold[i]], labels[fold > 0])
    assert torch.equal(unseen[torch.from_numpy(first)], alone.prepare([texts[i] for i in first]))


def test_a_fold_that_holds_all_texts_there_are_is_scored_0():
    texts = [combined_text("buy now")] * 4 + [combined_text("")] * 8
    labels, fold = [0, 1] * 6, np.array([0] * 6 + [1] * 6)
    found = out_of_fold_ngrams(texts, labels, fold)
    assert found[:6].tolist() == [0.0] * 6
    assert found.isfinite().all()


def test_a_meme_without_text_gets_the_bias():
    texts, labels = memes()
    model = Ngrams.fit(texts, labels)
    found = model.prepare([combined_text("")])
    assert found.item() == pytest.approx(model.arrays["bias"].item(), abs=1e-6)


def test_its_folding_comes_back_from_its_files(tmp_path):
    texts, labels = memes()
    folded, plain = Ngrams.fit(texts, labels, folding=1), Ngrams.fit(texts, labels)
    # These texts hold no tricks: the models differ in what they are shown alone.
    assert torch.equal(folded.prepare(texts), plain.prepare(texts))
    assert folded.fingerprint() != plain.fingerprint()
    folded.save(tmp_path / "ngrams")
    back = Ngrams.load(tmp_path / "ngrams")
    disguised = [combined_text("we d3sp1s3 the qu\u0456ms")]
    meant = [combined_text("we despise the quims")]
    assert torch.equal(back.prepare(disguised), back.prepare(meant))
    assert not torch.equal(plain.prepare(disguised), plain.prepare(meant))


def test_one_without_a_version_is_not_folded_and_an_unknown_one_refused(tmp_path):
    Ngrams.fit(*memes()).save(tmp_path / "ngrams")
    config = tmp_path / "ngrams/config.json"
    config.unlink()
    assert Ngrams.load(tmp_path / "ngrams").folding == 0
    config.write_text('{"text_folding": 99}')
    with pytest.raises(ValueError, match=r"ngrams/config\.json: text_folding is 99"):
        Ngrams.load(tmp_path / "ngrams")
