"""The warnings that an executed notebook holds, among progress bars and what libraries say."""

import re
from pathlib import Path

import nbformat

from lib.layout import ROOT

# A progress bar may stand before it, on the same line; below it stands a line of the source.
_WARNING = re.compile(
    r"[^\r\n]*/(?:ipykernel_\d+/\d+|lib/(?P<module>[^\r\n:]+))\.py:\d+: UserWarning: "
    r"(?P<said>[^\r\n]+)"
)


def warnings_in(notebook: Path) -> list[str]:
    """What this project's code has warned of in a notebook, each message once, in its order."""
    cells = nbformat.read(notebook, as_version=4).cells
    found = (said for cell in cells for said in _WARNING.finditer(_stderr(cell)))
    return list(dict.fromkeys(match["said"] for match in found if _is_own(match["module"])))


def _stderr(cell: nbformat.NotebookNode) -> str:
    outputs = cell.get("outputs", ())
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def _is_own(module: str | None) -> bool:
    """Whether a warning points to a cell (None) or to a module of this project, by its path."""
    return module is None or (ROOT / "lib" / f"{module}.py").is_file()
