"""Tell the emotions of the texts in a file, a row of calibrated probabilities each."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import batched
from pathlib import Path
from typing import Any

import emotion_cli
import emotion_engines
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from lib.artifacts import append_csv, as_written, atomic_path
from lib.emotions.classifier import BERTEmotionClassifier
from lib.emotions.text_files import SUFFIXES, TextRow, read_texts

# Texts held at a time: enough that batches of like length need next to no padding.
CHUNK = 8192
