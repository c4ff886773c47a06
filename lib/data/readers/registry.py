"""The readers by the name of their data set, and the schema with all their label mappings."""

from lib.data.confounders import design
from lib.data.readers import (
    crisishatemm,
    harmeme,
    hateful_memes,
    mami,
    memotion,
    mmhs150k,
    multioff,
    pridemm,
)
from lib.data.taxonomy import LABELS, LabelTaxonomy

_SETS = {
    "hateful_memes": hateful_memes,
    "mmhs150k": mmhs150k,
    "mami": mami,
    "harmeme": harmeme,
    "multioff": multioff,
    "memotion": memotion,
    "pridemm": pridemm,
    "crisishatemm": crisishatemm,
}

# A data set's name -> the reader of its folder
READERS = {name: module.read for name, module in _SETS.items()}

UNIFIED = LabelTaxonomy(
    labels=LABELS,
    datasets={name: module.MAPPING for name, module in _SETS.items()}
    | {"confounders": design.MAPPING},
)
