"""Run the committed notebooks anew and keep their outputs: `make notebooks`."""

import base64
import io
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from tqdm import tqdm

from lib.commands import handed_down, run_command
from lib.config import ROOT
from lib.kernels import BatchKernels
from lib.run import NOTEBOOKS


def refresh(path: str) -> None:
    """Execute a notebook in its folder and save it with what a reader wants to see.

    Progress bars and warnings (stderr) are dropped: they differ from run to run.
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
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            _lighten(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, file)


def _lighten(outputs: list[Any]) -> None:
    """Keep figures in 32 colours: a quarter of the bytes, and no eye sees it in lines and bars."""
    for data in (out["data"] for out in outputs if "image/png" in out.get("data", {})):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        buffer = io.BytesIO()
        picture.quantize(32, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    for notebook in tqdm(NOTEBOOKS.values(), desc="notebooks"):
        refresh(notebook)
