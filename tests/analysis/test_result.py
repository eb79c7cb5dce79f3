"""Show a result in a notebook."""

from torchgeo_decur.analysis import AnalysisResult


def test_a_notebook_shows_the_text() -> None:
    result = AnalysisResult(
        'name', 'Title', 'Words.\n\n- one\n- two', {'t': [{'a': 1}]}
    )
    assert result._repr_markdown_() == 'Words.\n\n- one\n- two'
