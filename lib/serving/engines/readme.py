"""The card of exported models in words, for whoever writes their inputs in another language."""

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """# A meme classifier as one ONNX graph

`{graph}` takes a text's tokens and a picture's pixels and gives the logits of three models: text
alone, picture alone, both. `card.json` holds all that stands here, for programs.

## Inputs

| name | type | shape | of |
|---|---|---|---|
{inputs}

## Outputs

`text_expert`, `vision_expert` and `mm_fusion`, float32 (batch, 2): non-hate first, then hate.

## The text

1. Collapse white space and bring the overlaid text into this form: `{form}`
2. For each encoder of texts, as the table says: undo disguises (folding), leave the markers out,
   make letters small; then tokenise with the file (Hugging Face `tokenizers`, where it ends with
   `spiece.model` SentencePiece, on the text without ASCII punctuation, `</s>` behind it), cut at
   the most tokens, pad with the padding token to the longest text or to the most tokens.

| encoder | folding | markers | small letters | file | most tokens | padding | padding id |
|---|---|---|---|---|---|---|---|
{texts}

The markers are `[OCR]`, `[/OCR]`, `[CAP]`, `[/CAP]`, `[ASR]`, `[/ASR]` and `<lang=...>`.
Folding 0 is none. Folding N is `folded(text, N)` in `lib/data/folding.py`: NFKC; hidden characters
removed; letters set apart rejoined; look-alike letters of other scripts made Latin; letters of
random case made small; digits and signs within words read as letters; three and more equal letters
made two. From 2 on words that English does not know are parted or mended by a letter, by the list
of words and counts in the package symspellpy, and marks of sites and accounts left out; from 3 on
less is taken for such marks and for numbers; from 4 on no word is parted or mended in texts whose
`<lang=...>` is not English. Known words that are plainly written stay. `folding_examples` in
`card.json` hold texts and what each version makes of them, to test your own by.
{ngrams}
## The picture

1. Decode as upright 8-bit RGB, transparency over white.
2. Letterbox: resize (bicubic, as Pillow does: with antialiasing) so that it fits into {size} x
   {size} pixels, centred, the rest filled with RGB {padding}. Without a picture all is filled so.
3. For each encoder of pictures resize to its size, multiply by the scale, subtract the mean, divide
   by the deviation; channels first.

| encoder | height, width | resampling | scale | mean | deviation |
|---|---|---|---|---|---|
{pictures}

## The answer

With l = logits[1] - logits[0] and the model's temperature T, the probability of hate is
1 / (1 + exp(-l / T)); T is {temperatures}.

- label: 1 where the probability of `mm_fusion` is at least {threshold}, else 0;
- decision: `block` where it is at least {block}, `allow` where it is below {allow}, else `review`.

The models' fingerprints: {models}.
"""

_NGRAMS = """
The input `{name}` (batch) is a score of words and letters, counted in the words without markers, in
small letters. `{file}` holds for each n-gram of `words` and of `letters` its inverse document
frequency and its weight. `words`: runs of two and more letters, digits and underscores, and pairs
of neighbours joined by a blank. `letters`: for each word between blanks, with a blank put before
and behind it, all runs of 2 to 5 characters. For each kind apart: value = (1 + ln count) x idf for
the n-grams that the file has, all divided by the root of the sum of their squares; the score is
the sum of value x weight over both kinds, plus `bias`.
"""


def readme(card: Mapping[str, Any]) -> str:
    """`README.md` for a card."""
    made, decision = card["preparation"], card["decision"]
    texts = {n: p for n, p in made.items() if "pad_id" in p}
    pictures = {n: p for n, p in made.items() if p["modality"] == "vision"}
    ngrams = {n: p for n, p in made.items() if n not in texts and n not in pictures}
    return _TEMPLATE.format(
        graph=card["graph"]["file"],
        form=card["text_form"],
        inputs=_rows((n, i["dtype"], i["shape"], i["encoder"]) for n, i in card["inputs"].items()),
        texts=_rows(
            (
                *(name, p["folding"], p["markers"], p["lower"]),
                *(p["file"], p["max_length"], p["padding"], p["pad_id"]),
            )
            for name, p in texts.items()
        ),
        ngrams="".join(_NGRAMS.format(name=n, file=p["file"]) for n, p in ngrams.items()),
        size=card["picture"]["size"],
        padding=tuple(card["picture"]["padding"]),
        pictures=_rows(
            (name, p["size"], p["resample"], p["scale"], p["mean"], p["std"])
            for name, p in pictures.items()
        ),
        temperatures=_listed(decision["temperatures"]),
        threshold=decision["threshold"],
        block=_cut(decision["block_from"]),
        allow=_cut(decision["allow_below"]),
        models=_listed(card["models"]),
    )


def _cut(value: float | None) -> str:
    return "a cut that this policy has not (so never)" if value is None else str(value)


def _rows(rows: Any) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _listed(entries: Mapping[str, Any]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in entries.items())
