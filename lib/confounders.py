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

Pictograms: Font Awesome Free (icons CC BY 4.0, fonts SIL OFL 1.1). Lettering: DejaVu.
"""

import colorsys
import functools
import itertools
import json
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from lib.sources import Example

SIZE = 384
BLOCK = 10
SPLIT_OF_BLOCK = ("train", "train", "val", "train", "test")
UNSEEN_SHARE = 0.2


def _entries(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(separator))


PICTOGRAMS = {
    "nice": _entries("""face-grin face-grin-hearts face-grin-stars face-grin-tears face-grin-tongue
        face-kiss-wink-heart face-laugh-beam face-laugh-squint face-smile face-smile-wink
        cat cow dog dove fish fish-fins frog hippo horse horse-head kiwi-bird otter paw
        apple-whole bowl-food bread-slice burger cake-candles candy-cane carrot champagne-glasses
        cheese cookie hotdog ice-cream lemon mug-hot pizza-slice stroopwafel
        award crown gem gift hand-holding-heart heart medal ranking-star ring shield-heart star
        thumbs-up trophy"""),
    "foul": _entries("""face-angry face-dizzy face-frown face-frown-open face-grimace
        face-rolling-eyes face-sad-cry face-sad-tear face-tired
        bacteria bacterium disease hand-dots head-side-cough head-side-virus lungs-virus
        shield-virus splotch virus virus-covid viruses
        bug bugs locust mosquito spider worm
        dumpster dumpster-fire joint poo poo-storm sink smoking toilet toilet-paper
        toilet-portable trash-can
        biohazard bomb bone book-skull burst explosion ghost handcuffs land-mine-on radiation skull
        skull-crossbones thumbs-down triangle-exclamation"""),
}

# A bar divides the line above the picture from the line below it.
PHRASINGS = {
    "ambiguous": _entries(
        """love the way|you smell {when}
        look how many people|love you {when}
        this is what you|look like {when}
        you remind me|of this {when}
        i saw this|and thought of you {when}
        your cooking|in one picture {when}
        your whole personality|{when}
        how you walk in|{when}
        this is how|the {people} smell {when}
        a typical {person}|{when}
        the {people} arriving|{when}
        when the {people}|move in next door
        what the {people} bring|{when}
        how it feels to sit|next to you {when}
        your face|{when}
        they built a statue|of you {when}
        meet your twin|{when}
        the {people}|have a new mascot {when}
        your breath|{when}
        what you do to a room|{when}
        you and this|have a lot in common {when}
        my portrait of you|{when}
        i drew|the {people} {when}
        inside your head|{when}
        they named this|after you {when}
        the {people}|put this on their flag
        your profile picture|{when}
        how i describe you|to my friends {when}
        exactly the gift|you deserve {when}
        you in a nutshell|{when}
        a picture of your soul|{when}
        your outfit|{when}
        what the {people}|are made of
        the average {person}|{when}
        your singing sounds|like this {when}
        this has your name|written on it {when}
        your hugs|feel like this {when}
        the {people}|taste like this
        everyone pictures you|like this {when}
        the best thing about you|{when}
        somebody left|your twin {when}
        caught a {person}|on camera {when}
        the {people} as seen|by their neighbours
        kissing you must|feel like this {when}
        your spirit animal|{when}
        working with you|{when}
        having a {person}|as a flatmate {when}
        living next to|the {people} {when}
        your house smells|like this {when}
        what a {person}|is like inside
        you light up a room|like this {when}
        you as a sticker|{when}
        the {people}|in one image {when}
        the real you|{when}
        what people think of|when you talk {when}
        your contribution|{when}
        the smell when the|{people} show up {when}
        you always leave|this behind {when}
        the {people} look|like this {when}
        a {person}|drawn from memory {when}
        you would look|like this {when}
        guess what this|{person} is like""",
        "\n",
    ),
    "hateful": _entries(
        """nobody wants the|{people} {when}
        the {people} are too dumb|to find the door
        ban every {person}|{when}
        you are worthless|{when}
        you are a stupid|waste of space {when}
        keep the filthy|{people} out {when}
        the {people}|ruin everything {when}
        all {people}|are liars and thieves
        you are too ugly|to be seen {when}
        never trust|a dirty {person} {when}
        the {people} do not|deserve to be here
        send the {people} back|where they came from
        shut up you|pathetic loser {when}
        everyone hates you|{when}
        lock up|all the {people} {when}
        the {people} are vermin|{when}
        get rid of|the {people} {when}
        you make everyone sick|{when}
        no {people} allowed|{when}
        the world is better|without the {people}
        you are an idiot|and always will be {when}
        a {person} is not|a real person {when}
        the {people} should|crawl back to their cave
        you disgust|every one of us {when}
        spit on a {person}|{when}
        nobody would miss you|{when}
        the {people} are|stupid and lazy {when}
        do not let a {person}|touch your food {when}
        throw the {people}|out {when}
        you should be|ashamed to exist {when}
        kick a {person}|{when}
        the {people} are inferior|and they know it
        what a miserable|failure you are {when}
        we do not serve|{people} {when}
        your kind|is not welcome {when}
        the {people}|breed like pests {when}
        you are the dumbest|creature alive {when}
        laugh at the|ugly {people} {when}
        i despise you|{when}
        the {people} stole|our jobs and houses
        hate the {people}|with all your heart
        you are garbage|and you know it {when}
        the {people} must leave|{when}
        go away you|disgusting fool {when}
        a {person} will always|stab you in the back
        stay away you|nasty creep {when}
        it is fine to hit|a {person} {when}
        you are a useless|parasite {when}""",
        "\n",
    ),
    "benign": _entries(
        """monday mornings|feel like this {when}
        when my coffee kicks in|{when}
        i forgot my umbrella|{when}
        me waiting for the bus|{when}
        my code before|the deadline {when}
        when the pizza arrives|{when}
        the {people} won|the chess cup {when}
        my homework|{when}
        my back after|moving the sofa {when}
        when my alarm rings|{when}
        my phone battery|{when}
        the weather forecast|{when}
        my bank account|{when}
        how my diet|is going {when}
        me trying to bake|{when}
        my sleep schedule|{when}
        when the wifi drops|{when}
        my garden|{when}
        remember to recycle|{when}
        please wash your hands|{when}
        have you seen|my keys {when}
        do you want some tea|{when}
        see you and your bike|{when}
        the {people}|opened a library {when}
        the {people} invite us|to dinner {when}
        welcome the {people}|to our town {when}
        good luck with|your exam {when}
        can you feed|the goldfish {when}
        a {person} and i|are learning chess
        my pile of laundry|{when}
        my knees|when i stand up {when}
        when the movie|has a sequel {when}
        a {person} taught me|to knit {when}
        how i feel|about taxes {when}
        my old car|{when}
        the {people} celebrate|their holiday {when}
        the dentist called me|{when}
        my hair in this rain|{when}
        nobody told me|about the meeting {when}
        i stubbed my toe|{when}
        thank a {person}|for the music {when}
        when i find|my old sandwich {when}
        the printer and i|{when}
        the {people} choir|sings {when}
        my plants while|i was away {when}
        the {people}|speak three languages
        are you coming|to the concert {when}
        me at the gym|{when}""",
        "\n",
    ),
}
TIMES = _entries(
    """today|tonight|this morning|on mondays|after lunch|every day|again|all week|at midnight|
    last summer|before breakfast|this weekend|at noon|on holidays""",
    "|",
)
PLACES = _entries(
    """at school|at the beach|on the bus|in the lift|at the wedding|in the office|at the zoo|
    in the kitchen|at the party|on the train|at the market|in class|at the museum|on the stairs|
    at the lake|in the garden""",
    "|",
)
STEMS = _entries("""zorb quand blim grool snaff threl murg yib fnor glorp wozz drib kraff vroon zwib
    ploog skrim ombl jaxx trund hoozz vemm blork quib""")
ENDINGS = ("ian", "ite", "oid", "ling")

# Search terms of the icon package that a caption need not repeat.
_RUDE_TERMS = ("crap", "shit", "turd")

_LABEL_OF_CELL = {
    ("ambiguous", "foul"): 1,
    ("ambiguous", "nice"): 0,
    ("hateful", "nice"): 1,
    ("benign", "foul"): 0,
}


@dataclass(frozen=True)
class Picture:
    """A pictogram in a scene; `seed` draws everything about the scene but the pictogram."""

    pictogram: str
    polarity: str
    seed: tuple[int, ...]


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


# ---------------------------------------------------------------------------------- the design


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
    in two blocks, and `group` names the block.
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
    cells = Counter((tuple(e.extra[f] for f in fields), e.labels["abuse_hate"]) for e in examples)
    best = Counter()
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
        cells = [
            *zip(ambiguous, foul, strict=True),
            *zip(ambiguous, nice, strict=True),
            *((next(phrases["hateful"]), picture) for picture in nice[:2]),
            *((next(phrases["benign"]), picture) for picture in foul[:2]),
        ]
        order = _rng(seed, "order", part, block).permutation(BLOCK)
        common = {
            "group": f"confounders-{part}-{block:05d}",
            "split": splits[block % len(splits)],
        }
        yield [
            _example(f"{common['group']}-{place}", *cells[i], captions, concept, common)
            for place, i in enumerate(order)
        ]


def _example(
    id_: str,
    phrase: Phrase,
    picture: Picture,
    captions: bool,
    concept: str,
    common: Mapping[str, str],
) -> Example:
    hateful = _LABEL_OF_CELL[phrase.kind, picture.polarity]
    return Example(
        id=id_,
        dataset="confounders",
        image=functools.partial(render, picture, phrase.text),
        ocr=phrase.plain,
        caption=_caption(picture.pictogram) if captions else "",
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


# --------------------------------------------------------------------------------- the drawing


def render(picture: Picture, text: str) -> Image.Image:
    """Draw one meme: 384x384 RGB, the same for the same arguments."""
    rng = np.random.default_rng(picture.seed)
    canvas = _scene(rng)
    _paste_sticker(canvas, _posed(_glyph(picture.pictogram), rng), rng)
    canvas = _film(canvas, rng)
    upper, lower = text.split("|")
    _letter(canvas, upper, at_top=True)
    _letter(canvas, lower, at_top=False)
    return canvas


def _scene(rng: np.random.Generator) -> Image.Image:
    scenes = (_sunburst, _hills, _room, _sea, _city, _bokeh)
    sharp = scenes[rng.integers(len(scenes))](rng)
    # Out of focus and pale, as behind the subject of a photograph
    pale = ImageEnhance.Contrast(ImageEnhance.Color(sharp).enhance(0.6)).enhance(0.75)
    return pale.filter(ImageFilter.GaussianBlur(4))


def _sunburst(rng: np.random.Generator) -> Image.Image:
    x, y = _grid()
    angle = np.arctan2(y - rng.uniform(0.4, 0.6), x - rng.uniform(0.4, 0.6))
    rays = np.floor(angle / np.pi * rng.integers(6, 13) + rng.uniform()) % 2
    hue = rng.uniform()
    return _blend(rays, _rgb(hue, 0.55, 0.85), _rgb(hue + rng.uniform(-0.1, 0.1), 0.6, 0.6))


def _hills(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    x0, y0, r = rng.uniform(40, 340), rng.uniform(70, 150), rng.uniform(20, 45)
    draw.ellipse((x0 - r, y0 - r, x0 + r, y0 + r), fill=_rgb(rng.uniform(0.08, 0.17), 0.3, 0.97))
    hue, x = rng.uniform(), np.arange(0, SIZE + 1, 4)
    for layer in range(3):
        waves = sum(
            rng.uniform(4, 22) * np.sin(x / rng.uniform(25, 90) + rng.uniform(0, 7))
            for _ in range(3)
        )
        ridge = SIZE * (0.55 + 0.15 * layer) + waves
        points = [*zip(x.tolist(), ridge.tolist(), strict=True), (SIZE, SIZE), (0, SIZE)]
        draw.polygon(points, fill=_rgb(hue + 0.03 * layer, 0.5, 0.75 - 0.16 * layer))
    return canvas


def _room(rng: np.random.Generator) -> Image.Image:
    x, y = _grid()
    pattern = (x * rng.integers(8, 22)) % 1 < 0.5
    if rng.uniform() < 0.5:
        pattern = pattern ^ ((y * rng.integers(8, 22)) % 1 < 0.5)
    hue = rng.uniform()
    canvas = _blend(pattern, _rgb(hue, 0.3, 0.85), _rgb(hue, 0.35, 0.78))
    floor = int(SIZE * rng.uniform(0.66, 0.78))
    draw = ImageDraw.Draw(canvas)
    wood = rng.uniform(0.03, 0.12)
    draw.rectangle((0, floor, SIZE, SIZE), fill=_rgb(wood, 0.55, 0.55))
    for x0 in range(-SIZE, 2 * SIZE, 48):
        draw.line((SIZE / 2 + (x0 - SIZE / 2) / 2, floor, x0, SIZE), fill=_rgb(wood, 0.6, 0.45))
    draw.rectangle((0, floor - 8, SIZE, floor), fill=_rgb(hue, 0.1, 0.95))
    return canvas


def _sea(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    horizon, shore = SIZE * rng.uniform(0.4, 0.55), SIZE * rng.uniform(0.68, 0.8)
    hue = rng.uniform(0.45, 0.65)
    draw.rectangle((0, horizon, SIZE, SIZE), fill=_rgb(hue, 0.6, 0.65))
    for _ in range(30):
        x0, y0, length = rng.uniform(0, SIZE), rng.uniform(horizon, shore), rng.uniform(10, 60)
        draw.line((x0, y0, x0 + length, y0), fill=_rgb(hue, 0.35, 0.85), width=2)
    x = np.arange(0, SIZE + 1, 4)
    edge = shore + 8 * np.sin(x / rng.uniform(30, 80) + rng.uniform(0, 7))
    points = [*zip(x.tolist(), edge.tolist(), strict=True), (SIZE, SIZE), (0, SIZE)]
    draw.polygon(points, fill=_rgb(0.11, 0.35, rng.uniform(0.75, 0.95)))
    return canvas


def _city(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    draw = ImageDraw.Draw(canvas)
    hue, ground, x = rng.uniform(), SIZE * rng.uniform(0.72, 0.85), -10
    while x < SIZE:
        width, top = int(rng.uniform(35, 80)), SIZE * rng.uniform(0.25, 0.6)
        draw.rectangle((x, top, x + width, ground), fill=_rgb(hue, 0.3, rng.uniform(0.25, 0.5)))
        for x0, y0 in itertools.product(
            range(x + 6, x + width - 6, 12), range(int(top) + 8, int(ground) - 8, 16)
        ):
            if rng.uniform() < 0.4:
                draw.rectangle((x0, y0, x0 + 5, y0 + 7), fill=_rgb(0.14, 0.45, 0.95))
        x += width + int(rng.uniform(0, 8))
    draw.rectangle((0, ground, SIZE, SIZE), fill=_rgb(rng.uniform(), 0.12, 0.4))
    return canvas


def _bokeh(rng: np.random.Generator) -> Image.Image:
    canvas = _sky(rng)
    for _ in range(14):
        spot, r = Image.new("L", canvas.size), rng.uniform(12, 50)
        x0, y0 = rng.uniform(0, SIZE, 2)
        ImageDraw.Draw(spot).ellipse(
            (x0 - r, y0 - r, x0 + r, y0 + r), fill=int(rng.uniform(60, 140))
        )
        canvas.paste(_rgb(rng.uniform(), 0.4, 1.0), mask=spot)
    return canvas.filter(ImageFilter.GaussianBlur(3))


def _sky(rng: np.random.Generator) -> Image.Image:
    _, y = _grid()
    hue = rng.uniform()
    low = _rgb(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.15, 0.45), rng.uniform(0.7, 1.0))
    return _blend(y, low, _rgb(hue, rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.9)))


def _film(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the grain and the dark corners of a photograph."""
    x, y = _grid()
    shade = 1 - 0.35 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)[..., None]
    grain = rng.normal(0, 5, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(canvas) * shade + grain, 0, 255).astype(np.uint8))


def _paste_sticker(canvas: Image.Image, mask: Image.Image, rng: np.random.Generator) -> None:
    """Paste a shaded pictogram with a white rim, its shadow on the ground below it."""
    margin = 16
    mask = ImageOps.expand(mask, margin)
    width, height = mask.size
    left = round(SIZE / 2 + rng.uniform(-15, 15) - width / 2)
    top = round(SIZE / 2 - 4 - height / 2)

    ground = Image.new("L", canvas.size)
    foot = top + height - margin
    ImageDraw.Draw(ground).ellipse((left + 20, foot - 8, left + width - 20, foot + 16), fill=130)
    canvas.paste((10, 10, 20), mask=ground.filter(ImageFilter.GaussianBlur(7)))

    # A blurred mask made steep again is a grown one with a smooth edge.
    rim = mask.filter(ImageFilter.GaussianBlur(4)).point(lambda v: min(255, 8 * v))
    shadow = rim.filter(ImageFilter.GaussianBlur(4)).point(lambda v: v // 2)
    canvas.paste((0, 0, 0), (left + 4, top + 5), shadow)
    canvas.paste((250, 250, 250), (left, top), rim)
    canvas.paste(_shaded(mask, rng), (left, top), mask)


def _shaded(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Colour a mask from a lighter top to a darker foot, edges lit from the upper left."""
    hue, saturation = rng.uniform(), rng.uniform(0.5, 0.9)
    light, dark = (np.array(_rgb(hue, saturation, v)) for v in (0.85, 0.45))
    down = np.linspace(0, 1, mask.height)[:, None, None]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(3)), dtype=float)
    lit = np.roll(soft, (-3, -3), (0, 1)) - np.roll(soft, (3, 3), (0, 1))
    colour = light + (dark - light) * down + 0.25 * lit[..., None]
    return Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))


def _letter(canvas: Image.Image, text: str, at_top: bool) -> None:
    """Write capitals, condensed, white with a black edge, as high as fits the width."""
    lines = textwrap.wrap(text.upper(), 24)
    if len(lines) > 1:
        lines = textwrap.wrap(text.upper(), 5 + len(text) // len(lines))
    height = 36 if len(lines) == 1 else 29
    for number, line in enumerate(lines):
        tile = _line_of_text(line)
        scale = height / tile.height
        width = min(round(0.72 * scale * tile.width), SIZE - 16)
        tile = tile.resize((width, height), Image.Resampling.LANCZOS)
        y = 4 + number * height if at_top else SIZE - 4 - (len(lines) - number) * height
        canvas.paste(tile, ((SIZE - width) // 2, y), tile)


def _line_of_text(line: str) -> Image.Image:
    font = _font(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf"), 64)
    ascent = font.getbbox("X", anchor="ls")[1]
    tile = Image.new("RGBA", (round(font.getlength(line)) + 16, 16 - ascent))
    ImageDraw.Draw(tile).text(
        (8, 8 - ascent),
        line,
        font=font,
        anchor="ls",
        fill="white",
        stroke_width=6,
        stroke_fill="black",
    )
    return tile


def _glyph(pictogram: str) -> Image.Image:
    """Return the shape of a pictogram, white on black, cut to its bounds."""
    character = chr(int(_icons()[pictogram]["unicode"], 16))
    font = _font(_fontawesome("webfonts/fa-solid-900.ttf"), 256)
    left, top, right, bottom = font.getbbox(character)
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), character, font=font, fill=255)
    return mask


def _posed(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scale a shape to the room between the lines, mirror half of them, tilt it a little."""
    height = rng.uniform(215, 235)
    scale = min(height / mask.height, 1.35 * height / mask.width)
    mask = mask.resize((round(mask.width * scale), round(mask.height * scale)))
    mask = ImageOps.mirror(mask) if rng.uniform() < 0.5 else mask
    return mask.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    return x, y


def _blend(weight: np.ndarray, one: tuple, zero: tuple) -> Image.Image:
    pixels = np.array(zero) + weight[..., None] * (np.array(one) - np.array(zero))
    return Image.fromarray(pixels.astype(np.uint8))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _caption(pictogram: str) -> str:
    icon = _icons()[pictogram]
    name = icon["label"].lower()
    terms = [term for term in icon["search"]["terms"] if term not in {name, *_RUDE_TERMS}]
    return ", ".join([f"a {name}", *terms[:3]])


@functools.cache
def _icons() -> dict:
    return json.loads(_fontawesome("metadata/icons.json").read_text(encoding="utf-8"))


@functools.cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _fontawesome(name: str) -> Path:
    return Path(str(resources.files("fontawesomefree"))) / "static/fontawesomefree" / name
