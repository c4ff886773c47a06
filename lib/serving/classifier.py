"""`MemeClassifier`: the models, temperature and threshold of a run behind `predict`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pandas as pd
import torch
from tqdm import tqdm

from lib.calibration import prob_hate
from lib.config import MODELS, Settings
from lib.decisions.bundle import DecisionBundle
from lib.modeling.device import usable_device
from lib.modeling.fusion import FusionModel, load_fusion
from lib.serving.engines.kept import use_engine
from lib.serving.evidence import WITHOUT_PICTURE, WITHOUT_TEXT, Evidence
from lib.serving.memes import Meme, Picture, packed_texts, read_meme
from lib.serving.read_ahead import read_ahead

# What a table of answers leaves out: it has one number or word a cell.
_NOT_IN_TABLES = ("logits", "rests_on", "text", "text_from")


class _Read(NamedTuple):
    """Memes that were read, and what `Evidence.prepared` made of them."""

    memes: Sequence[Meme]
    prepared: Mapping[str, Any]


class MemeClassifier:
    """The fusion model with its calibration: text and picture in, probability and decision out.

    `engine` names the runtime of each encoder; one that it does not name runs in float32.
    """

    def __init__(
        self,
        model: FusionModel,
        decision: DecisionBundle,
        engine: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.decision = decision
        self.engine = dict(engine or {})
        self.evidence = Evidence(model)

    @classmethod
    def load(
        cls,
        root: str | Path | None = None,
        mode: Literal["pilot", "full"] = "pilot",
        device: str | None = None,
        engine: str | None = None,
    ) -> Self:
        """Load what Steps 4 to 7 left under `root` (default: the project's folder).

        The encoders are run by the engine that `python -m lib.serving.engines` kept for these
        models on this machine, without one in float32; a name, such as "float32", forces one.

        Raises FileNotFoundError naming the missing artifact and the step that writes it, and
        ValueError if the thresholds were fitted on other models than these, the device cannot be
        used, or the engine is unknown, cannot run them here or is not installed.
        """
        settings = Settings.model_validate({"mode": mode, "root": root})
        settings.guide()
        decision = DecisionBundle.load(settings)
        model = load_fusion(settings.models, usable_device(device))
        decision.verify(settings.models)
        runtimes = use_engine(model, settings, decision.fingerprints, engine)
        return cls(model, decision, runtimes)

    def predict(self, text: str | None, image_path: Picture | None) -> dict[str, Any]:
        """Decide on one meme; see `predict_batch`."""
        return self.predict_batch([text], [image_path])[0]

    def predict_batch(
        self,
        texts: Sequence[str | None],
        image_paths: Sequence[Picture | None],
        batch_size: int = 16,
    ) -> list[dict[str, Any]]:
        """Decide on memes given by their overlaid text and picture, answers in the same order.

        A picture is a file's path, its content as bytes, or a PIL image; where there is none
        (None) the models are shown plain grey, as in training. A text may already have the packed
        form `[OCR] … [/OCR] …`; None is read off the picture, which needs the extra `ocr`.

        Each answer holds `prob_hate` (fusion's calibrated probability), `label` (1 = hate or abuse,
        where that reaches `threshold`), `threshold`, `decision` ("allow", "review" or "block", by
        the policy's cuts), `review` (whether it is "review"), `logits` of fusion, `experts`, the
        calibrated probability of each expert alone, `rests_on`, fusion's probability
        `without_text` and `without_picture`, the `text` as judged and `text_from`, "given" or
        "picture".
        Raises FileNotFoundError or ValueError naming a picture that cannot be read or saying what
        is wrong with a text, and which of several memes that is, and ValueError if there are more
        texts than pictures or fewer.
        """
        # A column of pandas would look rows up by their label.
        texts, image_paths = list(texts), list(image_paths)
        if len(texts) != len(image_paths):
            raise ValueError(f"{len(texts)} texts but {len(image_paths)} pictures; give one each")
        # Texts of like length together: the models pad each to the longest of its batch.
        lengths = [len(text) if isinstance(text, str) else 0 for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        answers: list[dict[str, Any]] = [{}] * len(order)
        batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
        bar = tqdm(batches, desc="predicting", disable=len(batches) < 2)
        with closing(read_ahead(partial(self._read, texts, image_paths), batches)) as coming:
            for rows, read in zip(bar, coming, strict=True):
                given = packed_texts([texts[row] for row in rows])
                for row, answer in zip(rows, self._judged(read, given), strict=True):
                    answers[row] = answer
        return answers

    def judge(self, memes: Sequence[Meme]) -> list[dict[str, Any]]:
        """The answers of `predict_batch` on memes that `read_meme` has read, as one batch."""
        if not memes:
            return []
        with ThreadPoolExecutor(1, "reader") as beside:
            read = beside.submit(self._prepared, memes)
            return self._judged(read, [meme.text for meme in memes])

    def _read(
        self,
        texts: Sequence[str | None],
        pictures: Sequence[Picture | None],
        rows: Sequence[int],
    ) -> _Read:
        return self._prepared([_read(texts, pictures, row) for row in rows])

    def _prepared(self, memes: Sequence[Meme]) -> _Read:
        return _Read(memes, self.evidence.prepared(memes))

    def _judged(self, read: Future[_Read], given: Sequence[str] | None) -> list[dict[str, Any]]:
        """The answers on a batch that a thread is reading; the texts, if they need no reading."""
        texts = given or [meme.text for meme in read.result().memes]
        logits = self.evidence(texts, lambda: read.result().prepared)
        memes, answers = read.result().memes, self._answers(logits)
        temperature = self.decision.temperatures["mm_fusion"]
        without = {
            name: prob_hate(logits[name], temperature).tolist()
            for name in (WITHOUT_TEXT, WITHOUT_PICTURE)
        }
        for row, (meme, answer) in enumerate(zip(memes, answers, strict=True)):
            answer["rests_on"] = {name: prob[row] for name, prob in without.items()}
            answer |= {"text": meme.words, "text_from": meme.text_from}
        return answers

    def predict_frame(
        self, texts: Sequence[str | None], image_paths: Sequence[Picture | None]
    ) -> pd.DataFrame:
        """`predict_batch` as a table, a row a meme, the experts' probabilities in columns."""
        return _table(self.predict_batch(texts, image_paths))

    def judge_frame(self, memes: Sequence[Meme]) -> pd.DataFrame:
        """`judge` as a table like that of `predict_frame`."""
        return _table(self.judge(memes))

    def frame_of(self, logits: Mapping[str, torch.Tensor]) -> pd.DataFrame:
        """`predict_frame` of memes whose logits (N, 2) of the three models are known already."""
        return _table(self._answers(logits))

    def _answers(self, logits: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
        threshold = self.decision.thresholds["mm_fusion"]
        probs = {
            name: prob_hate(logits[name], self.decision.temperatures[name]).tolist()
            for name in MODELS
        }
        decisions = self.decision.policy.decide(probs["mm_fusion"]).tolist()
        return [
            {
                "prob_hate": prob,
                "label": int(prob >= threshold),
                "threshold": threshold,
                "decision": decisions[row],
                "review": decisions[row] == "review",
                "logits": logits["mm_fusion"][row].tolist(),
                "experts": {name: probs[name][row] for name in ("text_expert", "vision_expert")},
            }
            for row, prob in enumerate(probs["mm_fusion"])
        ]


def _read(texts: Sequence[str | None], pictures: Sequence[Picture | None], row: int) -> Meme:
    """The meme of a row, which an error names where there are several."""
    try:
        return read_meme(texts[row], pictures[row])
    except (ValueError, FileNotFoundError) as error:
        if len(texts) == 1:
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"meme {row} of {len(texts)} (counted from 0): {error}") from None


def _table(answers: list[dict[str, Any]]) -> pd.DataFrame:
    for row in answers:
        row |= {f"{name}_prob": prob for name, prob in row.pop("experts").items()}
        for name in _NOT_IN_TABLES:
            row.pop(name, None)
    return pd.DataFrame(answers)
