"""The warnings that an executed notebook holds, among progress bars and what libraries say."""

import re
from pathlib import Path

import nbformat

from lib.layout import ROOT

# Where a warning points to, behind a progress bar if one stands on the same line.
_PLACE = re.compile(r"/(?:ipykernel_\d+/\d+|lib/(?P<module>[^:]+))\.py:\d+$")


def warnings_in(notebook: Path) -> list[str]:
    """What this project's code has warned of in a notebook, each message once, in its order."""
    cells = nbformat.read(notebook, as_version=4).cells
    lines = (line for cell in cells for line in re.split(r"[\r\n]+", _stderr(cell)))
    found = (line.partition(": UserWarning: ") for line in lines)
    return list(dict.fromkeys(said for place, _, said in found if said and _is_own(place)))


def _stderr(cell: nbformat.NotebookNode) -> str:
    outputs = cell.get("outputs", ())
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def _is_own(place: str) -> bool:
    """Whether a warning points to a cell or to a module of this project."""
    # No path is longer than this, and no bar needs to be looked through.
    if (match := _PLACE.search(place[-4096:])) is None:
        return False
    return match["module"] is None or (ROOT / "lib" / f"{match['module']}.py").is_file()
