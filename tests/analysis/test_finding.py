"""What a notebook shows of a finding."""

from torchgeo_decur.analysis import Finding


def test_a_notebook_shows_the_words() -> None:
    finding = Finding('name', 'Title', 'Words.\n\n- one\n- two', {'t': [{'a': 1}]})
    assert finding._repr_markdown_() == 'Words.\n\n- one\n- two'
