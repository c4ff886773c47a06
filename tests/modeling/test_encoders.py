import pytest

from lib.data.text import combined_text
from lib.modeling.encoders import shown_texts


@pytest.mark.parametrize(
    ("drop", "shown"), [(True, "one two dog"), (False, combined_text("one two", "dog"))]
)
def test_a_text_model_is_shown_markers_only_if_it_keeps_them(drop, shown):
    assert shown_texts([combined_text("one two", "dog")], drop) == [shown]
