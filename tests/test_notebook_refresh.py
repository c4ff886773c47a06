import nbformat

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
