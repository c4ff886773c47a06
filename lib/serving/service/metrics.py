"""What Prometheus is told, and what `lib.serving.drift` reads: numbers, no content of memes."""

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lib.serving.histograms import Histograms

LOGGER = logging.getLogger(__name__)
# Seconds that a lock is waited for: a service that is told to stop must end.
_LOCK_SECONDS = 2.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self, accepted: Callable[[], int]) -> None:
        own = CollectorRegistry()
        self._registry = own
        self.requests = Counter(
            "memes_requests", "Requests answered", ["path", "status"], registry=own
        )
        self.request_seconds = Histogram(
            "memes_request_seconds", "From head to answer", ["path"], buckets=_SECONDS, registry=own
        )
        self.decisions = Counter("memes_decisions", "Memes judged", ["decision"], registry=own)
        self.faults = Counter("memes_faults", "Memes not judged", ["status"], registry=own)
        self.batch_size = Histogram(
            "memes_batch_size", "Memes a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=own
        )
        self.model_seconds = Histogram(
            "memes_model_seconds", "The model on one batch", buckets=_SECONDS, registry=own
        )
        waiting = Gauge("memes_accepted", "Memes accepted and unanswered", registry=own)
        waiting.set_function(accepted)

    def batch(self, memes: int, seconds: float) -> None:
        """Count a batch of the model."""
        self.batch_size.observe(memes)
        self.model_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class KeptHistograms:
    """This process' histograms, added to those in the file now and then."""

    def __init__(self, file: Path, models: dict[str, str]) -> None:
        self._file, self._models = file, models
        self._new = Histograms(models)
        # Answers are counted by one thread and written by another.
        self._counting = threading.Lock()

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        """Count answers of the classifier."""
        if answers:
            with self._counting:
                self._new.add(answers)

    def write(self) -> None:
        """Add what was counted since the last time to the file, which stays as it is after nothing.

        A file of other models is put aside under their fingerprint, and goes on when they answer
        again: in a rolling restart two processes take turns, and each keeps its counts. One that
        cannot be read is put aside for good, with a warning.
        Raises OSError where it cannot be written, or another process does for seconds; the counts
        are then kept for the next time.
        """
        with self._counting:
            new, self._new = self._new, Histograms(self._models)
        if not new.n:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._file.with_name(f".{self._file.name}.lock"), timeout=_LOCK_SECONDS):
                _add(new, self._file)
        except OSError:
            with self._counting:
                self._new += new
            raise


def _add(new: Histograms, file: Path) -> None:
    own, found = _aside(file, new.models), _read(file)
    if found is not None and found.models not in ({}, new.models):
        file.replace(_aside(file, found.models))
        found = None
    # A file of these models holds what was put aside already.
    waiting = None if found is not None and found.models else _read(own)
    for earlier in (found, waiting):
        new = new if earlier is None else earlier + new
    new.write(file)
    # Last: what a kill before this leaves aside is an older state, which the next turn replaces.
    with contextlib.suppress(OSError):
        own.unlink(missing_ok=True)


def _aside(file: Path, models: dict[str, str]) -> Path:
    """Where counts of these models wait while others answer."""
    return _beside(file, json.dumps(models, sort_keys=True).encode())


def _beside(file: Path, content: bytes, word: str = "") -> Path:
    return file.with_name(
        f"{file.stem}.{word}{hashlib.sha256(content).hexdigest()[:16]}{file.suffix}"
    )


def _read(file: Path) -> Histograms | None:
    try:
        return Histograms.read(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        content = file.read_bytes()
        # Named by what it holds, so that the next one does not replace it. A copy: whoever reads
        # the counts meanwhile finds a file.
        kept = _beside(file, content, "unreadable-")
        kept.write_bytes(content)
        facts = {"why": str(error), "kept_as": kept.name}
        LOGGER.warning("counts that cannot be read were put aside", extra={"facts": facts})
        return None
