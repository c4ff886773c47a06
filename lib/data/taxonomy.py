"""The unified label schema: its labels and values, and how a data set's own are translated."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lib.artifacts import read_json, write_json
from lib.commands import again

Value = int | str | None


class LabelField(BaseModel):
    """One label and its allowed values; beside them None always means unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    values: tuple[int | str, ...]


class DatasetMapping(BaseModel):
    """A data set's own fields and values, and what each says in the unified schema.

    `fields` maps own field -> own value, as lower-case text -> unified labels. A field may hold
    several values: with `combine` "union" each adds what it knows, with "majority" they are votes
    of annotators.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: str
    fields: dict[str, dict[str, dict[str, Value]]]
    combine: Literal["union", "majority"] = "union"


class LabelTaxonomy(BaseModel):
    """The schema of `label_taxonomy.json`; pydantic's ValidationError if the mappings break it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: dict[str, LabelField]
    datasets: dict[str, DatasetMapping]

    @model_validator(mode="after")
    def _mappings_stay_inside_the_schema(self) -> "LabelTaxonomy":
        for name, mapping in self.datasets.items():
            for field, meanings in mapping.fields.items():
                for unified in meanings.values():
                    self._check(unified, f"{name}.{field}")
        return self

    @classmethod
    def load(cls, path: str | Path) -> "LabelTaxonomy":
        """Read `label_taxonomy.json`.

        Raises FileNotFoundError, or ValueError naming the file and the field that breaks it.
        """
        content = read_json(path, made_by=again(3))
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path}: field {field or 'datasets'}: {first['msg']}; write it again: {again(3)}"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write `label_taxonomy.json`."""
        write_json(path, self.model_dump(mode="json"))

    def validate_labels(self, labels: Mapping[str, Any], where: str = "labels") -> dict[str, Value]:
        """Return every unified label, None for those that `labels` does not hold.

        Labels outside the schema are left out. `where` names the file or example in errors.
        Raises ValueError naming the field, the value and the allowed values.
        """
        if not isinstance(labels, Mapping):
            raise ValueError(f"{where} must be an object, not {labels!r}")
        known = {name: labels.get(name) for name in self.labels}
        self._check(known, where)
        # true, 1.0 and 1 are equal and so allowed: write them all as 1
        return {k: int(v) if isinstance(v, bool | float) else v for k, v in known.items()}

    def map_labels(
        self, dataset: str, raw: Mapping[str, Any], where: str = "labels"
    ) -> dict[str, Value]:
        """Translate one example's own labels into the unified schema.

        Labels that already hold `abuse_hate` are only validated; fields without a mapping are left
        out; an absent or empty own field says nothing, so `abuse_hate` of None means unlabelled.
        Raises ValueError naming `where`, the field, the value and the allowed values.
        """
        if not isinstance(raw, Mapping):
            raise ValueError(f"{where} must be an object, not {raw!r}")
        if "abuse_hate" in raw:
            return self.validate_labels(raw, where)
        mapping = self.datasets.get(dataset)
        if mapping is None or not set(mapping.fields) & set(raw):
            wanted = "abuse_hate" if mapping is None else f"abuse_hate or {sorted(mapping.fields)}"
            raise ValueError(
                f"{where}: labels of data set {dataset!r} need the field {wanted}, "
                f"they hold {sorted(raw)}"
            )
        said = [
            meaning
            for field, meanings in mapping.fields.items()
            for meaning in _meanings(raw.get(field), meanings, mapping.combine, f"{where}: {field}")
        ]
        return _union(said, list(self.labels), where)

    def _check(self, labels: Mapping[str, Any], where: str) -> None:
        for name, value in labels.items():
            if name not in self.labels:
                raise ValueError(f"{where}: no label {name!r}; allowed: {sorted(self.labels)}")
            field = self.labels[name]
            if value is not None and value not in field.values:
                raise ValueError(
                    f"{where}: field {name} has the value {value!r}; allowed: {list(field.values)}"
                )


def _meanings(
    raw: Any, meanings: Mapping[str, Mapping[str, Value]], combine: str, where: str
) -> list[Mapping[str, Value]]:
    several = isinstance(raw, Sequence) and not isinstance(raw, str)
    said = []
    for value in raw if several else [raw]:
        key = _as_key(value)
        if key == "":
            continue
        if key not in meanings:
            raise ValueError(f"{where} has the value {value!r}; allowed: {sorted(meanings)}")
        said.append(meanings[key])
    return [_majority(said)] if combine == "majority" and said else said


def _as_key(value: Any) -> str:
    if value is None or value != value:  # NaN, as pandas reads an empty cell
        return ""
    if isinstance(value, bool | float) and math.isfinite(value) and value == int(value):
        value = int(value)
    key = str(value).strip().casefold()
    return key.removesuffix(".0") if key.removesuffix(".0").isdigit() else key


def _union(said: Sequence[Mapping[str, Value]], names: list[str], where: str) -> dict[str, Value]:
    unified: dict[str, Value] = dict.fromkeys(names)
    for meaning in said:
        for name, value in meaning.items():
            before = unified[name]
            if before is None or before == value or before == "none":
                unified[name] = value
            elif name == "target_type":
                unified[name] = before if value == "none" else "multiple"
            else:
                raise ValueError(
                    f"{where}: contradictory labels: {name} is both {before} and {value}"
                )
    return unified


def _majority(votes: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """Most votes decide on hate (a tie: hate), then the target most named by those who agree."""
    hate = int(2 * sum(vote["abuse_hate"] for vote in votes) >= len(votes))
    agreeing = [vote for vote in votes if vote["abuse_hate"] == hate]
    ranked = Counter(vote["target_type"] for vote in agreeing).most_common()
    tied = len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    return {"abuse_hate": hate, "target_type": "multiple" if tied else ranked[0][0]}


def flag(label: str, **when_set: Value) -> dict[str, dict[str, Value]]:
    return {"0": {label: 0, "target_type": "none"}, "1": {label: 1, **when_set}}


def targets(**meanings: str) -> dict[str, dict[str, Value]]:
    return {own: {"target_type": unified} for own, unified in meanings.items()}


LABELS = {
    "abuse_hate": LabelField(
        description="1 where the meme as a whole attacks, demeans or abuses, else 0",
        values=(0, 1),
    ),
    "offensive": LabelField(
        description="1 where the meme offends, hateful or not, else 0",
        values=(0, 1),
    ),
    "target_type": LabelField(
        description="whom it attacks: a kind of target, or the protected trait it attacks them "
        "for; none where it attacks nobody, undirected where nobody in particular",
        values=(
            "none",
            "undirected",
            "individual",
            "group",
            "organisation",
            "community",
            "society",
            "race",
            "religion",
            "nationality",
            "gender",
            "sexuality",
            "disability",
            "other",
            "multiple",
        ),
    ),
}
