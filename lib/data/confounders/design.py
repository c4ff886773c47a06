"""The generated benchmark: memes in which neither the text nor the picture tells the label alone.

In the manner of the benign confounders of Kiela et al. (2020), "The Hateful Memes Challenge":
an ambiguous text is hateful over a foul picture and harmless over a nice one, and the same picture
occurs under texts of either label. Texts insult only "you" and invented peoples.

Ten memes make a block (nice and foul are three pictures each, every picture used as often as said):

    3 ambiguous texts over 3 foul pictures   hateful     one each
    the same 3 texts over 3 nice pictures    harmless    one each
    2 hateful texts over 2 of the nice ones  hateful
    2 benign texts over 2 of the foul ones   harmless

So half the memes are hateful; a text tells its kind and nothing else, which makes 7 of 10 right at
best; a picture tells its polarity and nothing else, which makes 6 of 10; both together tell all.
Colours, background, place and size of the picture are drawn without regard to polarity.
"""

import functools
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.data.confounders.drawing import Picture, render
from lib.data.confounders.vocabulary import (
    ENDINGS,
    PHRASINGS,
    PICTOGRAMS,
    PLACES,
    STEMS,
    TIMES,
    caption_of,
)
from lib.data.example import Example
from lib.data.taxonomy import DatasetMapping, flag

MAPPING = DatasetMapping(
    note="generated memes, labelled by construction: an insult with a foul picture",
    fields={"label": flag("abuse_hate")},
)

BLOCK = 10
SPLIT_OF_BLOCK = ("train", "train", "val", "train", "test")
UNSEEN_SHARE = 0.2

_LABEL_OF_CELL = {
    ("ambiguous", "foul"): 1,
    ("ambiguous", "nice"): 0,
    ("hateful", "nice"): 1,
    ("benign", "foul"): 0,
}


@dataclass(frozen=True)
class Phrase:
    """An overlaid text, a bar between its upper and lower part."""

    text: str
    kind: str
    template: str

    @property
    def target(self) -> str:
        """Whom the text is about: a people, or the reader."""
        people = "{person}" in self.template or "{people}" in self.template
        return "group" if people else "individual"

    @property
    def plain(self) -> str:
        return self.text.replace("|", " ")


@dataclass(frozen=True)
class Vocabulary:
    """Pictograms by polarity and phrasings by kind, from which blocks are made."""

    pictograms: Mapping[str, Sequence[str]]
    phrasings: Mapping[str, Sequence[str]]


def generate(
    n: int,
    seed: int = 0,
    captions: bool = False,
    splits: bool = False,
    n_heldout: int | None = None,
) -> list[Example]:
    """Return `n` memes whose pictures are drawn when called for.

    Without `splits` all of them are "train", and the first k of n are those that k would give.
    With it whole blocks go to train, val and test as 3 : 1 : 1, and `n_heldout` more (by default
    `n // 5`) to "heldout": a fifth of the pictograms and of the phrasings, chosen by `seed`, occurs
    there alone; `extra["concept"]` says which of the two is unseen. No text and no picture occurs
    in two blocks. `group` names the memes that share texts or pictures: three a block, of 4, 4
    and 2 memes.
    `captions` fills the caption from the pictogram's search terms, which shows a text model the
    picture.
    Raises ValueError if `n` is not positive, too small to fill three splits, or larger than the
    number of distinct texts allows.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    everything = Vocabulary(PICTOGRAMS, PHRASINGS)
    if not splits:
        return _take(n, _blocks(everything, seed, captions=captions))
    if n < BLOCK * len(SPLIT_OF_BLOCK):
        raise ValueError(f"n is {n}; three splits need at least {BLOCK * len(SPLIT_OF_BLOCK)}")
    seen, unseen = _hold_out(everything, seed)
    used: set[str] = set()
    blocks = functools.partial(_blocks, seed=seed, captions=captions, used=used)
    examples = _take(n, blocks(seen, splits=SPLIT_OF_BLOCK))
    vocabularies = {
        "unseen_phrasing": Vocabulary(seen.pictograms, unseen.phrasings),
        "unseen_pictogram": Vocabulary(unseen.pictograms, seen.phrasings),
        "unseen_both": unseen,
    }
    n_heldout = n // 5 if n_heldout is None else n_heldout
    for number, (concept, vocabulary) in enumerate(vocabularies.items(), start=1):
        share = n_heldout * number // 3 - n_heldout * (number - 1) // 3
        memes = blocks(vocabulary, part=number, splits=("heldout",), concept=concept)
        examples += _take(share, memes)
    return examples


def bounds(examples: Iterable[Example]) -> dict[str, float]:
    """Accuracy of the best possible classifier that sees the text, the picture, or both.

    Given the kind of text (or the polarity of the picture, or both) the Bayes rule answers the
    more frequent label; its accuracy over `examples` is exact, since by design nothing else in
    that modality depends on the label. The picture's bound is that of a model that does not read
    the overlaid text. Returns the keys "text", "image" and "both"; for whole blocks 0.7, 0.6, 1.0.
    Raises ValueError if `examples` is empty or was not generated here.
    """
    keys = {"text": ("phrasing",), "image": ("polarity",), "both": ("phrasing", "polarity")}
    examples = list(examples)
    if not examples or any(not {"phrasing", "polarity"} <= set(e.extra or ()) for e in examples):
        raise ValueError("bounds need generated memes: extra must hold 'phrasing' and 'polarity'")
    return {name: _bayes_accuracy(examples, fields) for name, fields in keys.items()}


def _bayes_accuracy(examples: Sequence[Example], fields: Sequence[str]) -> float:
    cells = Counter(
        (tuple((e.extra or {})[f] for f in fields), e.labels["abuse_hate"]) for e in examples
    )
    best: Counter[tuple[str, ...]] = Counter()
    for (seen, _), count in cells.items():
        best[seen] = max(best[seen], count)
    return best.total() / len(examples)


def _take(n: int, blocks: Iterator[list[Example]]) -> list[Example]:
    return list(itertools.islice(itertools.chain.from_iterable(blocks), n))


def _hold_out(whole: Vocabulary, seed: int) -> tuple[Vocabulary, Vocabulary]:
    """Divide each class of a vocabulary into what training may see and a fifth it may not."""

    def divide(entries: Mapping[str, Sequence[str]], part: int) -> tuple[dict, dict]:
        seen, unseen = {}, {}
        for number, (name, members) in enumerate(entries.items()):
            order = _rng(seed, "hold out", part, number).permutation(len(members))
            cut = round(UNSEEN_SHARE * len(members))
            unseen[name] = [members[i] for i in order[:cut]]
            seen[name] = [members[i] for i in order[cut:]]
        return seen, unseen

    parts = zip(divide(whole.pictograms, 0), divide(whole.phrasings, 1), strict=True)
    seen, unseen = (Vocabulary(*part) for part in parts)
    return seen, unseen


def _blocks(
    vocabulary: Vocabulary,
    seed: int,
    captions: bool,
    part: int = 0,
    splits: Sequence[str] = ("train",),
    concept: str = "seen",
    used: set[str] | None = None,
) -> Iterator[list[Example]]:
    """Yield blocks without end, `splits` in turn; no text of theirs is or stays out of `used`."""
    used = set() if used is None else used
    phrases = {
        kind: _phrases(kind, templates, _rng(seed, "texts", part, number), used)
        for number, (kind, templates) in enumerate(vocabulary.phrasings.items())
    }
    names = {
        polarity: _shuffled_forever(entries, _rng(seed, "pictograms", part, number))
        for number, (polarity, entries) in enumerate(vocabulary.pictograms.items())
    }
    for block in itertools.count():
        foul, nice = (
            [Picture(next(names[p]), p, (seed, part, block, k, i)) for i in range(3)]
            for k, p in enumerate(("foul", "nice"))
        )
        ambiguous = [next(phrases["ambiguous"]) for _ in range(3)]
        cells: list[tuple[Phrase, Picture]] = [
            *zip(ambiguous, foul, strict=True),
            *zip(ambiguous, nice, strict=True),
            *((next(phrases["hateful"]), picture) for picture in nice[:2]),
            *((next(phrases["benign"]), picture) for picture in foul[:2]),
        ]
        order = _rng(seed, "order", part, block).permutation(BLOCK)
        name = f"confounders-{part}-{block:05d}"
        split = splits[block % len(splits)]
        yield [
            _example(
                f"{name}-{place}",
                *cells[i],
                captions,
                concept,
                # The pictures of one number share texts with each other and with no other picture.
                {"group": f"{name}-{'abc'[cells[i][1].seed[-1]]}", "split": split},
            )
            for place, i in enumerate(map(int, order))
        ]


def _example(
    id_: str,
    phrase: Phrase,
    picture: Picture,
    captions: bool,
    concept: str,
    common: Mapping[str, Any],
) -> Example:
    hateful = _LABEL_OF_CELL[phrase.kind, picture.polarity]
    return Example(
        id=id_,
        dataset="confounders",
        image=functools.partial(render, picture, phrase.text),
        ocr=phrase.plain,
        caption=caption_of(picture.pictogram) if captions else "",
        labels={
            "abuse_hate": hateful,
            "offensive": hateful,
            "target_type": phrase.target if hateful else "none",
        },
        extra={
            "pictogram": picture.pictogram,
            "polarity": picture.polarity,
            "phrasing": phrase.kind,
            "template": phrase.template,
            "concept": concept,
        },
        **common,
    )


def _shuffled_forever(entries: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        for i in rng.permutation(len(entries)):
            yield entries[i]


def _phrases(
    kind: str, templates: Sequence[str], rng: np.random.Generator, used: set[str]
) -> Iterator[Phrase]:
    """Yield texts that are not in `used`, each template in turn; adds them to `used`."""
    misses = 0
    for template in _shuffled_forever(templates, rng):
        phrase = Phrase(_fill(template, rng), kind, template)
        # A reader, and the leak check, take two texts for one if only the line break differs.
        if phrase.plain not in used:
            used.add(phrase.plain)
            misses = 0
            yield phrase
        elif (misses := misses + 1) > 100 * len(templates):
            raise ValueError(f"n is too large: the {kind} phrasings have no more distinct texts")


def _fill(template: str, rng: np.random.Generator) -> str:
    time, place = (str(rng.choice(words)) for words in (TIMES, PLACES))
    when = (time, place, f"{time} {place}")[rng.choice(3, p=(0.45, 0.45, 0.1))]
    person = str(rng.choice(STEMS)) + str(rng.choice(ENDINGS))
    return template.format(when=when, person=person, people=person + "s")


def _rng(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A stream of its own for every purpose, so that no draw depends on how much another drew."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])
