import base64
import io

import matplotlib.pyplot as plt
import nbformat
import numpy as np
from PIL import Image

from lib import notebooks
from lib.config import Settings


def test_committed_outputs_do_not_depend_on_the_last_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMES_ROOT", str(tmp_path))
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    Settings(root=tmp_path, data=tmp_path / "own").save()
    source = "from lib.config import Settings\nprint(Settings.from_notebook(globals()).data)"
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    notebooks.refresh("a.ipynb")
    (cell,) = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells
    assert [out["text"] for out in cell.outputs] == ["None\n"]


def test_figures_keep_their_size_and_lose_bytes():
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.plot(np.sin(np.linspace(0, 6, 200)), alpha=0.5)
    axes.plot([0, 9], [0, 0], color="#d08614")
    axes.plot(9, 0.5, "^", color="#2a6591", markersize=4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    before = base64.b64encode(buffer.getvalue()).decode()
    output = nbformat.v4.new_output("display_data", data={"image/png": before})
    notebooks._lighten([output])
    after = output["data"]["image/png"]
    assert len(after) < 0.6 * len(before)
    seen, kept = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), dtype=int)
        for text in (before, after)
    )
    assert seen.shape == kept.shape
    assert np.abs(seen - kept).max() < 32
