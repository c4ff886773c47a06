"""What the models say of memes, and what fusion would say without the text or the picture."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch

from lib.data.pictures import blank_picture
from lib.data.text import packed
from lib.modeling.fusion import FusionModel, model_logits

# Fusion's logits with the text, and with the picture, replaced by a blank one.
WITHOUT_TEXT, WITHOUT_PICTURE = "without_text", "without_picture"


class Evidence:
    """A fusion model asked three times: as it is, without text, without picture.

    A blank text is the packed text without words, a blank picture the padding's grey, as in Step
    7's table of modalities. Both are encoded once, so that asking costs passes of the head alone.
    """

    def __init__(self, model: FusionModel) -> None:
        self.model = model

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], images: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Logits (B, 2), on the CPU in double precision, of B packed texts and RGB pictures.

        Beside the three models' names the keys are `WITHOUT_TEXT` and `WITHOUT_PICTURE`.
        """
        encoders, tokens = self.model.encoders, self.model.head.reads_tokens
        # Pictures are resized by Pillow, which needs neither the model nor Python's lock.
        with ThreadPoolExecutor(1, "pictures") as beside:
            pictures = beside.submit(encoders.prepared, "vision", images)
            said = encoders.encode_texts(texts, tokens)
        seen = encoders.named(encoders.encode_prepared(pictures.result(), tokens))
        asked = [
            said | seen,
            _repeated(self._no_text, len(texts)) | seen,
            said | _repeated(self._no_picture, len(texts)),
        ]
        if tokens:
            found = [model_logits(self.model.head, encoded) for encoded in asked]
        else:
            # One pass of the head over all three: of one meme its calls take longer than its sums.
            joined = {name: torch.cat([encoded[name] for encoded in asked]) for name in asked[0]}
            parts = {n: v.chunk(3) for n, v in model_logits(self.model.head, joined).items()}
            found = [{name: part[k] for name, part in parts.items()} for k in range(3)]
        logits = found[0] | {
            WITHOUT_TEXT: found[1]["mm_fusion"],
            WITHOUT_PICTURE: found[2]["mm_fusion"],
        }
        return {name: value.cpu().double() for name, value in logits.items()}

    @cached_property
    def _no_text(self) -> dict[str, torch.Tensor]:
        return self.model.encoders.encode_texts([packed("")], self.model.head.reads_tokens)

    @cached_property
    def _no_picture(self) -> dict[str, torch.Tensor]:
        return self.model.encoders.encode_images([blank_picture()], self.model.head.reads_tokens)


def _repeated(encoded: Mapping[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """The features of one meme, (1, ...), for `times` memes."""
    return {name: value.expand(times, *value.shape[1:]) for name, value in encoded.items()}
