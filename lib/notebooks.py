"""Run the committed notebooks anew, keep their outputs, draw README's picture: `make notebooks`."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib.commands import handed_down, run_command
from lib.config import ROOT, Settings
from lib.data.datasets import MemeShards, shard_paths
from lib.figures.pilot_picture import pairs_of, pilot_picture
from lib.kernels import BatchKernels
from lib.modeling.prediction_table import predictions_to_fit
from lib.run import NOTEBOOKS
from lib.serving import MemeClassifier

# What a progress bar shows itself as in Jupyter.
BAR = "application/vnd.jupyter.widget-view+json"


def refresh(path: str) -> None:
    """Execute a notebook in its folder and save it with what a reader wants to see.

    Progress bars and warnings are dropped: they differ from run to run.
    Raises nbclient's CellExecutionError, the file then unchanged.
    """
    file = ROOT / path
    notebook = nbformat.read(file, as_version=4)
    context = {"metadata": {"path": str(file.parent)}}
    # As `lib.run` does: what somebody last ran here, such as data of their own, must not show.
    with handed_down(run_command({"mode": "pilot"})):
        NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            resources=context,
            kernel_manager_class=BatchKernels,
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if not _is_bar_or_warning(out)]
            _lighten(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, file)


def _is_bar_or_warning(output: Any) -> bool:
    return output.get("name") == "stderr" or BAR in output.get("data", {})


def _lighten(outputs: list[Any]) -> None:
    """Keep figures in 24 colours: a quarter of the bytes, and no eye sees it in lines and bars."""
    for data in (out["data"] for out in outputs if "image/png" in out.get("data", {})):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        buffer = io.BytesIO()
        # Of the rare colours too, in which the models' marks are drawn.
        few = picture.quantize(24, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(buffer.getvalue()).decode()


def draw_pilot(settings: Settings, file: Path) -> None:
    """Draw README's picture of a finished pilot; the file says which threshold it shows."""
    memes = MemeShards(shard_paths(settings.shards, settings.report_split))
    shown = [memes[row] for row in pairs_of(memes.texts, memes.labels)]
    classifier = MemeClassifier.load(settings.root, settings.mode, engine="float32")
    images = [meme["image"] for meme in shown]
    answers = classifier.predict_frame([meme["text"] for meme in shown], images)
    figure = pilot_picture(
        images,
        [meme["label"] for meme in shown],
        answers,
        predictions_to_fit(settings),
        classifier.decision,
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    told = PngInfo()
    told.add_text("threshold", f"{classifier.decision.thresholds['mm_fusion']:.3f}")
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(file, "PNG", optimize=True, pnginfo=told)


if __name__ == "__main__":
    for notebook in tqdm(NOTEBOOKS.values(), desc="notebooks"):
        refresh(notebook)
    draw_pilot(Settings.model_validate({}), ROOT / "docs/pilot.png")
