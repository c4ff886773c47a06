"""A multi-label emotion classifier for short texts: encoder, temperature and thresholds in one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import expit
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
)

from lib.artifacts import atomic_path, read_json, require
from lib.emotions.commands import script_command
from lib.emotions.data import LABELS
from lib.emotions.encoding import encode_all
from lib.emotions.passes import all_logits, by_number, eager_pass
from lib.modeling import backbones
from lib.modeling.device import default_device

# A model that nobody calibrated tells a label only where it is rather sure.
DEFAULT_THRESHOLD = 0.6
WEIGHTS = "model.safetensors"
# Without any of them transformers may make a tokenizer that knows no word.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "bpe.codes")


class BERTEmotionClassifier(nn.Module):
    """A BERT-like encoder, the mean of its token states, and one logit per emotion.

    `temperature` (1,) and `prediction_threshold` (L,) are buffers, so that they travel with the
    weights. `backbone` is "minilm", a folder, or a hub name such as "bert-base-uncased".
    """

    def __init__(
        self,
        backbone: str = "minilm",
        names: Sequence[str] = LABELS,
        dropout: float = 0.1,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.tokenizer = backbones.load(AutoTokenizer, backbone)
        self.encoder = _encoder(backbone, pretrained)
        self.encoder.config.update({"architectures": [type(self).__name__], **_label_maps(names)})
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.config.hidden_size, len(self.names))
        # float64, so that a threshold of 0.6 reads back as 0.6 and decides as it did when chosen.
        self.register_buffer("temperature", torch.ones(1, dtype=torch.float64))
        self.register_buffer(
            "prediction_threshold",
            torch.full((len(self.names),), DEFAULT_THRESHOLD, dtype=torch.float64),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Temperature and thresholds stay as they are, on the CPU: not every device has float64.
        names = ("temperature", "prediction_threshold")
        kept = [self.get_buffer(name) for name in names]
        super()._apply(fn, recurse)
        for name, buffer in zip(names, kept, strict=True):
            self._buffers[name] = buffer
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **ignored: torch.Tensor,
    ) -> torch.Tensor:
        """Return raw logits (B, L) for token ids (B, S); the temperature is not applied here."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.told_by(states, attention_mask)

    def told_by(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return raw logits (B, L), float32, for the encoder's token states (B, S, D)."""
        mask = attention_mask.unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(mean.to(self.head.weight.dtype))).float()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Names of the embeddings and of the layers, for timm's layer-wise learning rates."""
        return {"stem": r"^encoder\.embeddings", "blocks": r"^encoder\..*layers?\.(\d+)\."}

    def set_temperature(self, temperature: float) -> None:
        """Set T in place. Raises ValueError unless T is finite and positive."""
        if not 0 < float(temperature) < np.inf:
            raise ValueError(f"temperature must be a finite number above 0, not {temperature}")
        self.temperature.fill_(float(temperature))

    def set_threshold(self, threshold: float | Sequence[float]) -> None:
        """Set one cut for all labels, or one per label (L,), in place.

        Raises ValueError unless every cut lies in (0, 1] and there are one or L of them.
        """
        cuts = np.asarray(threshold, dtype=np.float64)
        if cuts.shape not in ((), (len(self.names),)):
            raise ValueError(f"expected 1 or {len(self.names)} thresholds, got shape {cuts.shape}")
        if not ((cuts > 0) & (cuts <= 1)).all():
            raise ValueError(f"a threshold must lie in (0, 1], not {threshold}")
        self.prediction_threshold.copy_(torch.from_numpy(cuts))

    def logits(
        self, texts: Sequence[str], batch_size: int = 64, progress: bool = False
    ) -> np.ndarray:
        """Return raw logits (N, L), float32, computed in evaluation mode.

        Raises TypeError if `texts` is one string, which would be read letter by letter.
        """
        if isinstance(texts, str):
            raise TypeError("pass a list of texts, not one string")
        was_training = self.training
        self.eval()
        encoded = encode_all(self.tokenizer, texts)
        batches = by_number([len(text["input_ids"]) for text in encoded], batch_size)
        passes, labels = [eager_pass(self)], len(self.names)
        out = all_logits(self.tokenizer, encoded, batches, passes, labels, progress)
        self.train(was_training)
        return out

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return sigmoid(logits / T), float64, for raw logits (N, L)."""
        return expit(logits.astype(np.float64) / self.temperature.item())

    def decide(self, prob: np.ndarray) -> np.ndarray:
        """Return whether each probability (N, L) reaches its label's threshold."""
        return prob >= self.prediction_threshold.numpy()

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the calibrated probabilities of each emotion, float64, shape (N, L)."""
        return self.probabilities(self.logits(texts))

    def predict(self, texts: Sequence[str]) -> list[list[str]]:
        """Return for each text the names of the emotions that reach their threshold."""
        decided = self.decide(self.predict_proba(texts))
        return [[self.names[label] for label in np.flatnonzero(row)] for row in decided]

    def save(self, folder: str | Path) -> None:
        """Write config, tokenizer and weights; a folder of that name is replaced as a whole."""
        with atomic_path(folder) as new:
            self.encoder.config.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            save_file(self._state(), new / WEIGHTS)

    def update(self, folder: str | Path) -> None:
        """Write weights, temperature and thresholds over those that `save` wrote to `folder`.

        The previous ones stay beside as `model.safetensors.bak`; a kill at any moment leaves a
        checkpoint that loads.
        """
        weights = Path(folder) / WEIGHTS
        with atomic_path(weights.with_name(f"{WEIGHTS}.bak")) as backup:
            shutil.copyfile(weights, backup)
        with atomic_path(weights) as new:
            save_file(self._state(), new)

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.cpu() for name, tensor in self.state_dict().items()}

    @classmethod
    def load(
        cls, folder: str | Path, device: str | None = None, data: str | Path | None = None
    ) -> "BERTEmotionClassifier":
        """Read what `save` wrote, to `device`, by default the accelerator if there is one.

        `data` is the folder of GoEmotions' files that an error advises to train on.
        Raises FileNotFoundError if the folder or a file of it is missing, and ValueError if it
        holds another architecture or weights that do not fit it.
        """
        folder = Path(folder)
        train = script_command("train_emotion_model", folder, data)
        config = read_json(folder / "config.json", train)
        require(folder / WEIGHTS, train)
        if not any((folder / name).is_file() for name in VOCABULARIES):
            require(folder / VOCABULARIES[0], train)
        if config.get("architectures") != [cls.__name__]:
            raise ValueError(
                f"{folder / 'config.json'}: architectures is {config.get('architectures')}, not "
                f"['{cls.__name__}']; train one with: {train}"
            )
        names = [name for _, name in sorted((int(i), n) for i, n in config["id2label"].items())]
        model = cls(str(folder), names, pretrained=False)
        model.load_state_dict(read_weights(folder / WEIGHTS, model.state_dict(), train))
        return model.eval().to(device or default_device())


def read_weights(
    path: Path, expected: dict[str, torch.Tensor], made_by: str
) -> dict[str, torch.Tensor]:
    """Read a safetensors file whose names and shapes are those of `expected`.

    Raises ValueError naming the first difference, or if the file is damaged, and `made_by`, the
    command that writes it.
    """
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again: {made_by}") from None
    for name in sorted(expected.keys() | state.keys()):
        shapes = [tuple(s[name].shape) if name in s else "absent" for s in (state, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path}: {name} is {shapes[0]} but the architecture of config.json wants "
                f"{shapes[1]}; train again: {made_by}"
            )
    return state


def _encoder(backbone: str, pretrained: bool) -> PreTrainedModel:
    if pretrained:
        encoder = backbones.load(AutoModel, backbone)
    else:
        encoder = AutoModel.from_config(backbones.load(AutoConfig, backbone), dtype=torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        # Its weights would travel along unused: the head reads the mean of the states.
        encoder.pooler = None
    return encoder


def _label_maps(names: Sequence[str]) -> dict:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
        "problem_type": "multi_label_classification",
    }
