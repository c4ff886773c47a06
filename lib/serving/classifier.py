"""`MemeClassifier`: the models, temperature and threshold of a run behind `predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from lib.calibration import prob_hate
from lib.config import MODELS, Settings
from lib.data.pictures import blank_picture, letterbox, load_picture
from lib.data.text import packed
from lib.decisions.bundle import DecisionBundle
from lib.modeling.fusion import FusionModel, load_fusion


class MemeClassifier:
    """The fusion model with its calibration: text and picture in, probability and decision out."""

    def __init__(self, model: FusionModel, decision: DecisionBundle) -> None:
        self.model = model
        self.decision = decision

    @classmethod
    def load(
        cls,
        root: str | Path | None = None,
        mode: Literal["pilot", "full"] = "pilot",
        device: str | None = None,
    ) -> Self:
        """Load what Steps 4 to 7 left under `root` (default: the project's folder).

        Raises FileNotFoundError naming the missing artifact and the step that writes it, and
        ValueError if the thresholds were fitted on other models than these.
        """
        settings = Settings.model_validate({"mode": mode, "root": root})
        settings.guide()
        decision = DecisionBundle.load(settings)
        model = load_fusion(settings.models, device)
        decision.verify(settings.models)
        return cls(model, decision)

    def predict(self, text: str, image_path: str | Path | None) -> dict[str, Any]:
        """Decide on one meme; see `predict_batch`."""
        return self.predict_batch([text], [image_path])[0]

    @torch.inference_mode()
    def predict_batch(
        self,
        texts: Sequence[str],
        image_paths: Sequence[str | Path | Image.Image | None],
        batch_size: int = 16,
    ) -> list[dict[str, Any]]:
        """Decide on memes given by their overlaid text and picture (a file or a PIL image).

        Where there is no picture (None) the models are shown plain grey, as in training.
        A text may already have the packed form `[OCR] … [/OCR] …`. Each answer holds `prob_hate`
        (fusion's calibrated probability), `label` (1 = hate or abuse, where that reaches
        `threshold`), `threshold`, `decision` ("allow", "review" or "block", by the policy's cuts),
        `review` (whether it is "review"), `logits` of fusion, and `experts`, the calibrated
        probability of each expert alone.
        Raises FileNotFoundError or ValueError naming a picture that cannot be read, and
        ValueError if there are more texts than pictures or fewer.
        """
        if len(texts) != len(image_paths):
            raise ValueError(f"{len(texts)} texts but {len(image_paths)} pictures; give one each")
        answers = []
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, desc="predicting", disable=len(starts) < 2):
            part = slice(start, start + batch_size)
            images = [_shown(picture) for picture in image_paths[part]]
            logits = self.model([packed(text) for text in texts[part]], images)
            answers += self._answers({name: value.cpu().double() for name, value in logits.items()})
        return answers

    def predict_frame(
        self, texts: Sequence[str], image_paths: Sequence[str | Path | Image.Image]
    ) -> pd.DataFrame:
        """`predict_batch` as a table, a row a meme, the experts' probabilities in columns."""
        return _table(self.predict_batch(texts, image_paths))

    def frame_of(self, logits: dict[str, torch.Tensor]) -> pd.DataFrame:
        """`predict_frame` of memes whose logits (N, 2) of the three models are known already."""
        return _table(self._answers(logits))

    def _answers(self, logits: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
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


def _table(answers: list[dict[str, Any]]) -> pd.DataFrame:
    for row in answers:
        row |= {f"{name}_prob": prob for name, prob in row.pop("experts").items()}
        del row["logits"]
    return pd.DataFrame(answers)


def _shown(picture: str | Path | Image.Image | None) -> Image.Image:
    return blank_picture() if picture is None else letterbox(load_picture(picture))
