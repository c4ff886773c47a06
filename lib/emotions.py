"""A multi-label emotion classifier for short texts, and the data it learns from.

The 28 labels and the file layout are GoEmotions' (Demszky et al. 2020, "GoEmotions: A Dataset of
Fine-Grained Emotions").
"""

import hashlib
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import expit
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lib import backbones
from lib.artifacts import atomic_path, read_json, require

# label -> how many of the 43,410 training comments of GoEmotions carry it
LABEL_COUNTS = {
    "admiration": 4130,
    "amusement": 2328,
    "anger": 1567,
    "annoyance": 2470,
    "approval": 2939,
    "caring": 1087,
    "confusion": 1368,
    "curiosity": 2191,
    "desire": 641,
    "disappointment": 1269,
    "disapproval": 2022,
    "disgust": 793,
    "embarrassment": 303,
    "excitement": 853,
    "fear": 596,
    "gratitude": 2662,
    "grief": 77,
    "joy": 1452,
    "love": 2086,
    "nervousness": 164,
    "optimism": 1581,
    "pride": 111,
    "realization": 1110,
    "relief": 153,
    "remorse": 545,
    "sadness": 1326,
    "surprise": 1060,
    "neutral": 14219,
}
LABELS = tuple(LABEL_COUNTS)
SPLITS = ("train", "dev", "tune", "report", "test")
MAX_TOKENS = 64
WEIGHTS = "model.safetensors"
TRAIN_COMMAND = "python scripts/train_emotion_model.py"


@dataclass(frozen=True)
class EmotionData:
    """Texts with their emotions: `labels` is multi-hot, shape (N, L), one column per `names`."""

    source: str
    names: tuple[str, ...]
    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray, source: str) -> "EmotionData":
        """Return the rows where the boolean mask (N,) is true, under the name `source`."""
        texts = [text for text, kept in zip(self.texts, rows, strict=True) if kept]
        return replace(self, source=source, texts=texts, labels=self.labels[rows])


def load_split(data: str | Path | None, split: str, seed: int = 0) -> EmotionData:
    """Return one split of the GoEmotions files in folder `data`, or of the generated set if None.

    "train", "dev" and "test" are the files of that name. "tune" and "report" are the two halves of
    dev: cuts and temperatures are chosen on the one and reported on the other.
    Raises FileNotFoundError if a file is missing and ValueError if `split` is unknown or a line
    is malformed.
    """
    if split not in SPLITS:
        raise ValueError(f"split '{split}' is unknown; choose one of {', '.join(SPLITS)}")
    file = "dev" if split in ("tune", "report") else split
    whole = _generated_split(file, seed) if data is None else _file_split(Path(data), file)
    if file == split:
        return whole
    tuned = _tune_half(whole)
    if tuned.all():
        raise ValueError(f"{whole.source} holds one distinct text; its two halves need one each")
    return whole.take(tuned if split == "tune" else ~tuned, f"{whole.source}, {split} half")


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read `labels.txt`: one label name a line; the line's index is the label's id in the TSV.

    Raises ValueError if the file is empty, has an empty line, or names a label twice.
    """
    names = tuple(line.strip() for line in _lines(Path(path)))
    if not all(names) or not names or len(set(names)) < len(names):
        raise ValueError(f"{path} must name each label once, one a line")
    return names


def read_tsv(path: str | Path, names: Sequence[str] = LABELS) -> EmotionData:
    """Read a GoEmotions file: text, tab, comma-separated label ids, tab, comment id.

    Raises FileNotFoundError, or ValueError naming file and line if a line has not three fields,
    an empty text, or an id that is no index into `names`, or if the file holds no line.
    """
    path = Path(path)
    texts, rows = [], []
    for number, line in enumerate(_lines(path), start=1):
        text, row = _parse(line, len(names), f"{path}, line {number}")
        texts.append(text)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; expected lines of text, label ids and comment id")
    return EmotionData(path.name, tuple(names), texts, np.stack(rows))


def _file_split(folder: Path, file: str) -> EmotionData:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; --data wants one with train.tsv, dev.tsv")
    named = folder / "labels.txt"
    names = read_labels(named) if named.exists() else LABELS
    return read_tsv(folder / f"{file}.tsv", names)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it is one of GoEmotions' TSV files")
    try:
        # Not splitlines(): comments hold line separators that Python would split at.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _parse(line: str, n_labels: int, where: str) -> tuple[str, np.ndarray]:
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError(
            f"{where}: {len(fields)} tab-separated fields instead of text, label ids, comment id"
        )
    text, ids, _ = fields
    if not text.strip():
        raise ValueError(f"{where}: the text is empty")
    row = np.zeros(n_labels, dtype=np.uint8)
    for item in ids.split(","):
        if not (item.isascii() and item.isdigit()):
            raise ValueError(f"{where}: label id '{item}' is not a number; separate ids by commas")
        if int(item) >= n_labels:
            raise ValueError(f"{where}: label id {item} is out of range 0 to {n_labels - 1}")
        row[int(item)] = 1
    return text, row


def _tune_half(whole: EmotionData) -> np.ndarray:
    """Deal the distinct texts out to two halves, label by label from the rarest; (N,) booleans.

    Each half so gets half of the few examples of a rare label, and equal texts stay together.
    """
    frequency = whole.labels.sum(axis=0)
    rarest = np.where(whole.labels > 0, frequency, len(whole) + 1).min(axis=1)
    rank = {}
    for text, count in zip(whole.texts, rarest, strict=True):
        key = text.strip().lower()
        rank.setdefault(key, (count, hashlib.sha256(key.encode()).hexdigest()))
    tuned = set(sorted(rank, key=rank.get)[::2])
    return np.array([text.strip().lower() in tuned for text in whole.texts], dtype=bool)


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
            "prediction_threshold", torch.full((len(self.names),), 0.5, dtype=torch.float64)
        )

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
        mask = attention_mask.unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(mean)).float()

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

    @torch.no_grad()
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
        encoded = [encode(self.tokenizer, text) for text in texts]
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row]["input_ids"]))
        out = np.zeros((len(texts), len(self.names)), dtype=np.float32)
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="logits", disable=not progress):
            rows = order[start : start + batch_size]
            batch = self.tokenizer.pad([encoded[row] for row in rows], return_tensors="pt")
            out[rows] = self(**batch.to(self.temperature.device)).cpu().numpy()
        self.train(was_training)
        return out

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return sigmoid(logits / T), float64, for raw logits (N, L)."""
        return expit(logits.astype(np.float64) / self.temperature.item())

    def decide(self, prob: np.ndarray) -> np.ndarray:
        """Return whether each probability (N, L) reaches its label's threshold."""
        return prob >= self.prediction_threshold.cpu().numpy()

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
            save_file(self.state_dict(), new / WEIGHTS)

    def update(self, folder: str | Path) -> None:
        """Write weights, temperature and thresholds over those that `save` wrote to `folder`.

        The previous ones stay beside as `model.safetensors.bak`; a kill at any moment leaves a
        checkpoint that loads.
        """
        weights = Path(folder) / WEIGHTS
        with atomic_path(weights.with_name(f"{WEIGHTS}.bak")) as backup:
            shutil.copyfile(weights, backup)
        with atomic_path(weights) as new:
            save_file(self.state_dict(), new)

    @classmethod
    def load(cls, folder: str | Path) -> "BERTEmotionClassifier":
        """Read what `save` wrote.

        Raises FileNotFoundError if the folder or a file of it is missing, and ValueError if it
        holds another architecture or weights that do not fit it.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json", TRAIN_COMMAND)
        require(folder / WEIGHTS, TRAIN_COMMAND)
        if config.get("architectures") != [cls.__name__]:
            raise ValueError(
                f"{folder / 'config.json'}: architectures is {config.get('architectures')}, not "
                f"['{cls.__name__}']; train one with: {TRAIN_COMMAND}"
            )
        names = [name for _, name in sorted((int(i), n) for i, n in config["id2label"].items())]
        model = cls(str(folder), names, pretrained=False)
        model.load_state_dict(read_weights(folder / WEIGHTS, model.state_dict()))
        return model.eval()


def normalise(text: str) -> str:
    """Spell emoji out by their Unicode names, which a BERT vocabulary can read.

    Without this they become unknown tokens, though few signs carry more of the emotion.
    """
    return "".join(
        f" {unicodedata.name(sign, '').lower()} "
        if unicodedata.category(sign) in ("So", "Sk")
        else sign
        for sign in text
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> dict[str, list[int]]:
    """Return `input_ids` and `attention_mask` of the normalised text, at most MAX_TOKENS long."""
    return tokenizer(
        normalise(text), truncation=True, max_length=MAX_TOKENS, return_token_type_ids=False
    )


def read_weights(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a safetensors file whose names and shapes are those of `expected`.

    Raises ValueError naming the first difference, or if the file is damaged.
    """
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); train again: {TRAIN_COMMAND}") from None
    for name in sorted(expected.keys() | state.keys()):
        shapes = [tuple(s[name].shape) if name in s else "absent" for s in (state, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{path}: {name} is {shapes[0]} but the architecture of config.json wants "
                f"{shapes[1]}; train again: {TRAIN_COMMAND}"
            )
    return state


def _encoder(backbone: str, pretrained: bool) -> PreTrainedModel:
    if pretrained:
        encoder = backbones.load(AutoModel, backbone, dtype=torch.float32)
    else:
        encoder = AutoModel.from_config(backbones.load(AutoConfig, backbone))
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


def smoothed_thresholds(
    logits: np.ndarray, labels: np.ndarray, strength: float = 20.0, width: float = 0.5
) -> np.ndarray:
    """Return one cut per label, shape (L,), for calibrated logits and multi-hot labels, (N, L).

    The exact F1 optimum follows the noise of a label with few positives. Here its F1 curve is
    smoothed twice before the best cut is taken: a text counts as told by the degree
    sigmoid((logit - cut) / width), and the truth of a label with n positives is n / (n + strength)
    observed and the rest what the calibrated probabilities expect.
    """
    reach, cuts = 12, np.linspace(-7, 3, 201)
    told_at = np.linspace(-reach, reach, 961)
    weight = labels.sum(axis=0) / (labels.sum(axis=0) + strength)
    truth = weight * labels + (1 - weight) * expit(logits)
    nearest = np.rint((logits.clip(-reach, reach) + reach) * 40).astype(int)
    shape = (labels.shape[1], len(told_at))
    cell = np.ravel_multi_index((np.arange(shape[0])[None, :], nearest), shape).ravel()
    texts, truths = (
        np.bincount(cell, weights, minlength=np.prod(shape)).reshape(shape)
        for weights in (None, truth.ravel())
    )
    degree = expit((told_at[:, None] - cuts) / width)
    f1 = 2 * truths @ degree / (texts @ degree + truth.sum(axis=0)[:, None])
    return expit(cuts[f1.argmax(axis=1)])


def multilabel_f1(decided: np.ndarray, labels: np.ndarray, average: str) -> float:
    """F1 of decisions (N, L) against multi-hot labels (N, L), both 0/1.

    "macro" is the mean over the labels, a label that is neither told nor present counting 0;
    "micro" pools them.
    """
    told, there = decided.astype(bool), labels.astype(bool)
    axis = 0 if average == "macro" else None
    hits = (told & there).sum(axis=axis)
    sizes = told.sum(axis=axis) + there.sum(axis=axis)
    return float(np.mean(2 * hits / np.maximum(sizes, 1)))


def best_constant_f1(labels: np.ndarray, average: str) -> float:
    """The highest F1 that telling every text the same emotions reaches on labels (N, L).

    A label told always has F1 2p / (1 + p), p its frequency: macro-F1 tells all. For micro-F1
    the best set of k labels is the k most frequent.
    """
    frequency = np.sort(labels.mean(axis=0))[::-1]
    if average == "macro":
        return float(np.mean(2 * frequency / (1 + frequency)))
    told = np.arange(1, len(frequency) + 1)
    return float(np.max(2 * np.cumsum(frequency) / (told + frequency.sum())))


GENERATED_SIZES = {"train": 1800, "dev": 1200, "test": 1200}
# Annotators agree on less than this: a tenth of the generated sentences lose their emotion.
LABEL_NOISE = 0.1
TWO_EMOTIONS = 0.15
TOPICS = (
    "the new bridge",
    "my neighbour's garden",
    "this recipe",
    "the last episode",
    "our school play",
    "that penalty kick",
    "the bus driver",
    "your drawing",
    "the long weekend",
    "my sister's letter",
    "this old laptop",
    "the village fair",
    "that phone call",
    "the exam result",
    "our first concert",
    "the rainy trip",
    "your advice",
    "the lost suitcase",
    "this puzzle",
    "the night shift",
)
OPENERS = ("", "", "", "Honestly, ", "Well, ", "So, ", "Look, ", "Today: ")
PHRASES = {
    "admiration": ("{t} is truly impressive work", "what a talent behind {t}", "respect for {t}"),
    "amusement": ("{t} made me laugh out loud", "haha, {t} is hilarious", "lol at {t}"),
    "anger": ("{t} makes me furious", "I am so mad about {t}", "stop ruining {t}, I am raging"),
    "annoyance": ("{t} gets on my nerves", "ugh, {t} again", "so tired of hearing about {t}"),
    "approval": ("I agree with you on {t}", "{t} is a fine choice", "yes, {t} works for me"),
    "caring": ("take care of yourself after {t}", "I am here for you with {t}", "rest after {t}"),
    "confusion": (
        "I do not understand {t}",
        "{t} makes no sense to me",
        "what is {t} about, I am lost",
    ),
    "curiosity": ("how did {t} come about?", "tell me more about {t}?", "I wonder who made {t}?"),
    "desire": ("I want {t} so badly", "I wish {t} were mine", "if only I could have {t}"),
    "disappointment": ("{t} was a let-down", "I expected more from {t}", "{t} fell short, sadly"),
    "disapproval": (
        "I do not think {t} is right",
        "no, {t} should not be allowed",
        "{t} is a bad idea",
    ),
    "disgust": ("{t} is revolting", "{t} makes me sick", "yuck, {t} smells rotten"),
    "embarrassment": ("{t} made me cringe", "I blushed over {t}", "so awkward, {t}"),
    "excitement": ("I cannot wait for {t}!", "wow, {t} starts soon!", "so hyped about {t}!"),
    "fear": ("{t} scares me", "I am afraid of {t}", "{t} gave me nightmares"),
    "gratitude": ("thank you for {t}", "thanks a lot, {t} helped", "I am grateful for {t}"),
    "grief": ("I mourn since {t}, may she rest in peace", "we lost him after {t}, I grieve"),
    "joy": ("{t} makes me happy", "what a delightful day with {t}", "{t} put a smile on my face"),
    "love": ("I love {t}", "{t} has my whole heart", "I adore {t}"),
    "nervousness": ("I am anxious about {t}", "{t} gives me the jitters", "nervous before {t}"),
    "optimism": ("I hope {t} goes well", "{t} will be better next time", "fingers crossed for {t}"),
    "pride": ("I am proud of {t}", "we did {t} all by ourselves, so proud"),
    "realization": (
        "I just realised what {t} means",
        "turns out {t} was the reason",
        "now I see {t}",
    ),
    "relief": ("phew, {t} is over at last", "what a relief that {t} ended well"),
    "remorse": ("I am sorry about {t}", "I regret {t}", "my apologies for {t}, my fault"),
    "sadness": ("{t} makes me cry", "I feel so sad about {t}", "{t} left me in tears"),
    "surprise": ("I did not expect {t}", "{t} came out of nowhere", "no way, {t} really happened"),
    "neutral": ("{t} begins at nine", "{t} is on the second page", "they moved {t} to Tuesday"),
}


def generate(n: int, seed: int) -> EmotionData:
    """Write `n` sentences with emotions as frequent and as imbalanced as in GoEmotions.

    The first label of a sentence is drawn by LABEL_COUNTS; some carry a second emotion, and some
    lose theirs to "neutral", as human labels do. Every label occurs at least once if n >= 28.
    """
    rng = np.random.default_rng(seed)
    counts = np.array(list(LABEL_COUNTS.values()), dtype=float)
    first = rng.choice(len(LABELS), size=n, p=counts / counts.sum())
    first[: len(LABELS)] = rng.permutation(len(LABELS))[:n]
    texts, labels = [], np.zeros((n, len(LABELS)), dtype=np.uint8)
    for row, emotion in enumerate(first):
        emotions = [emotion]
        if row >= len(LABELS) and rng.random() < TWO_EMOTIONS:
            emotions.append(rng.choice(len(LABELS), p=counts / counts.sum()))
        texts.append(_sentence([LABELS[e] for e in emotions], rng))
        if row >= len(LABELS) and rng.random() < LABEL_NOISE:
            emotions = [LABELS.index("neutral")]
        labels[row, emotions] = 1
    return EmotionData(f"generated sentences (seed {seed})", LABELS, texts, labels)


def _sentence(emotions: Sequence[str], rng: np.random.Generator) -> str:
    parts = [rng.choice(PHRASES[emotion]).format(t=rng.choice(TOPICS)) for emotion in emotions]
    return rng.choice(OPENERS) + " and ".join(parts)


def _generated_split(file: str, seed: int) -> EmotionData:
    seed_of_file = 3 * seed + list(GENERATED_SIZES).index(file)
    made = generate(GENERATED_SIZES[file], seed_of_file)
    return replace(made, source=f"generated sentences, {file}")
