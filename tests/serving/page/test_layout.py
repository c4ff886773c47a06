"""What the page takes of those who send it more than a browser does."""

import asyncio
from types import SimpleNamespace

import pytest
from PIL import Image

from lib.decisions.policy import Policy

pytest.importorskip("gradio", reason="the extra page is not installed")

from gradio import processing_utils
from gradio.data_classes import FileData

from lib.serving.page.layout import build_page


@pytest.fixture
def page(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "example.png")
    decision = SimpleNamespace(
        mode="full", thresholds={"mm_fusion": 0.5}, policy=Policy.at_threshold(0.5)
    )
    return build_page(lambda text, image: {}, decision, [tmp_path / "example.png"])


def test_no_part_of_the_page_fetches_what_lies_at_an_address(page, monkeypatch):
    fetched = []

    async def fetch(url, folder):
        fetched.append(url)
        return url

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    sent = FileData(path="http://example.org/a.png").model_dump()
    for block in list(page.blocks.values()):
        if hasattr(block, "async_move_resource_to_block_cache"):
            with pytest.raises(ValueError, match="fetched from no address"):
                asyncio.run(processing_utils.async_move_files_to_cache(sent, block))
    assert fetched == []


def test_a_file_that_was_uploaded_is_taken(page, tmp_path):
    (picture,) = [block for block in page.blocks.values() if block.elem_id == "picture"]
    sent = FileData(path=str(tmp_path / "example.png")).model_dump()
    found = asyncio.run(processing_utils.async_move_files_to_cache(sent, picture, postprocess=True))
    assert Image.open(found["path"]).size == (8, 8)
