"""Run the committed notebooks anew and keep their outputs: `make notebooks`."""

import nbformat
from nbclient import NotebookClient
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
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for notebook in tqdm(NOTEBOOKS.values(), desc="notebooks"):
        refresh(notebook)
