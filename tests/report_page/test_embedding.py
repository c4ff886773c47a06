import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.report_page import embedding
from lib.report_page.embedding import datatables, safe_json, safe_script

ANY = st.text(st.characters(exclude_categories=()))


@given(ANY | st.dictionaries(ANY, st.lists(ANY | st.integers() | st.none())))
def test_json_comes_back_as_it_was_and_ends_no_element(content):
    written = safe_json(content)
    assert json.loads(written) == content
    assert not set(written) & set("<>&\u2028\u2029")
    written.encode()


def test_what_would_end_a_script_is_escaped():
    written = safe_json("</script><!--\u2028\u2029\ud83d\u202e&")
    assert written == r'"\u003c/script\u003e\u003c!--\u2028\u2029\ud83d' + '\u202e\\u0026"'
    assert safe_script("a = '</script><!--'") == r"a = '<\/script><\!--'"


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError):
        safe_json([float("nan")])


def test_datatables_come_out_of_itables_and_another_form_is_named(monkeypatch):
    assert "export{" not in datatables() and "window.jQuery=" in datatables()
    monkeypatch.setattr(embedding, "of_itables", lambda name: "export{a as b}")
    with pytest.raises(ValueError, match="install itables"):
        datatables()
