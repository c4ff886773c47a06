"""What the models say of memes, and what fusion would say without the text or the picture."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from lib.data.pictures import blank_picture
from lib.data.text import packed
from lib.modeling.fusion import FusionModel, model_logits
from lib.modeling.stacking import SPACE, VOTE
from lib.serving.memes import Meme

# Fusion's logits with the text, and with the picture, replaced by a blank one.
WITHOUT_TEXT, WITHOUT_PICTURE = "without_text", "without_picture"

# What text and picture add to the cosines with the training memes that vote.
_COSINES = ("text_cosine", "vision_cosine")

Encoded = dict[str, torch.Tensor]


class Evidence:
    """A fusion model asked three times: as it is, without text, without picture.

    A blank text is the packed text without words, a blank picture the padding's grey, as in Step
    7's table of modalities. Both are encoded once, so that asking costs passes of the head alone.
    """

    def __init__(self, model: FusionModel) -> None:
        self.model = model

    def prepared(self, memes: Sequence[Meme]) -> dict[str, Any]:
        """What the encoders of pictures are given of memes, and the n-grams of their texts.

        It takes no network, so that a thread may make it beside the networks of the texts.
        """
        texts, images = [meme.text for meme in memes], [meme.image for meme in memes]
        of_texts, of_pictures = map(self.model.encoders.of_modality, ("text", "vision"))
        ngrams = {name: s.prepare(texts) for name, s in of_texts if not s.is_network}
        return ngrams | {name: source.prepare(images) for name, source in of_pictures}

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], rest: Callable[[], Mapping[str, Any]]) -> Encoded:
        """Logits (B, 2), on the CPU in double precision, of B memes with these packed texts.

        `rest` gives what `prepared` made of them; it is called when the texts are encoded.
        Beside the three models' names the keys are `WITHOUT_TEXT` and `WITHOUT_PICTURE`.
        """
        encoders, tokens = self.model.encoders, self.model.head.reads_tokens
        sources = encoders.of_modality("text")
        tokenised = {name: source.prepare(texts) for name, source in sources if source.is_network}
        said = encoders.encode_prepared(tokenised, tokens)
        encoded = encoders.named(said | encoders.encode_prepared(rest(), tokens))
        return self._asked(self._with_cosines(encoded), len(texts))

    def _asked(self, encoded: Encoded, memes: int) -> Encoded:
        without_text = encoded | _repeated(self._no_text, memes)
        without_picture = encoded | _repeated(self._no_picture, memes)
        asked = [encoded, without_text, without_picture]
        if self.model.head.reads_tokens:
            found = [self._logits(each) for each in asked]
        else:
            # One pass of the head over all three: of one meme its calls take longer than its sums.
            joined = {name: torch.cat([each[name] for each in asked]) for name in encoded}
            parts = {n: v.chunk(3) for n, v in self._logits(joined).items()}
            found = [{name: part[k] for name, part in parts.items()} for k in range(3)]
        logits = found[0] | {
            WITHOUT_TEXT: found[1]["mm_fusion"],
            WITHOUT_PICTURE: found[2]["mm_fusion"],
        }
        return {name: value.cpu().double() for name, value in logits.items()}

    def _logits(self, encoded: Encoded) -> Encoded:
        if self.model.head.neighbours is not None:
            text, vision = (encoded[name] for name in _COSINES)
            encoded = encoded | {VOTE: self.model.head.neighbours.vote(text + vision)}
        return model_logits(self.model.head, encoded)

    def _with_cosines(self, encoded: Encoded) -> Encoded:
        """The features with what text or picture, whichever is there, adds to the cosines."""
        neighbours = self.model.head.neighbours
        if neighbours is None:
            return encoded
        for space, name in zip(SPACE, _COSINES, strict=True):
            if space in encoded:
                encoded[name] = getattr(neighbours, name)(encoded[space])
        return encoded

    @cached_property
    def _no_text(self) -> Encoded:
        tokens = self.model.head.reads_tokens
        return self._with_cosines(self.model.encoders.encode_texts([packed("")], tokens))

    @cached_property
    def _no_picture(self) -> Encoded:
        tokens = self.model.head.reads_tokens
        return self._with_cosines(self.model.encoders.encode_images([blank_picture()], tokens))


def _repeated(encoded: Mapping[str, torch.Tensor], times: int) -> Encoded:
    """The features of one meme, (1, ...), for `times` memes."""
    return {name: value.expand(times, *value.shape[1:]) for name, value in encoded.items()}
