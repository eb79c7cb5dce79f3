"""Check spelling, links and figures of the pages."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pages import DOCS, PAGES, TEXTS

# What is wrong outside of code and addresses, and how it is written.
SPELLINGS = {
    r'Torchgeo|TorchGEO|Torch[- ]Geo': 'TorchGeo',
    r'DeCur|Decur|DECUR|deCUR': 'DeCUR',
    r'Comm\b|COMM\b|Co-MM': 'CoMM',
    r'Coral\b|CORAL\b|CorAl|CoRAL': 'COrAL',
    r'FactorCl|Factorcl|FACTORCL|Factor-CL': 'FactorCL',
    r'Infmasking|INFMASKING|InfMask\b|Inf-Masking': 'InfMasking',
    r'SSL4EO[ _]S12|SSL4EO-s12|Ssl4eo': 'SSL4EO-S12',
    r'BigEarthnet|Bigearthnet|Big Earth ?Net': 'BigEarthNet',
    r'GeoNrw|Geonrw|GEONRW|Geo-NRW': 'GeoNRW',
    r'Pytorch|Py-?Torch lightning|(?<!models-)pytorch': 'PyTorch, Lightning',
    r'Sentinel[ _]?[12]\b|sentinel-[12]': 'Sentinel-1, Sentinel-2',
    r'SUN[- ]?RGBD|Sun RGB|sun rgb': 'SUN RGB-D',
    r'NYU ?v2|NYUD|NYU-Depth|NYU depth': 'NYU Depth v2',
    r'VICREG|VicReg|Vicreg': 'VICReg',
    r'SIMCLR|SimCLr|Simclr|SimClr': 'SimCLR',
    r'Barlow twins|Barlow-Twins|barlow twins': 'Barlow Twins',
    r'Segformer|SegFORMER': 'SegFormer',
    r'Geotiff|GeoTiff|GEOTIFF|geotiff': 'GeoTIFF',
    r'Geoparquet|geoparquet': 'GeoParquet',
    r'Resnet|Res-Net|ResNet ?\d': 'ResNet-50',
    r'Timm\b|TIMM\b': 'timm',
    r'Trifeatures\b': 'Trifeature, the data; `Trifeatures`, the class',
    r'Numpy|Jupyter notebook|Youtube|Github': 'NumPy, GitHub',
    r'data ?sets? module|datamodul\b|data module': 'datamodule',
    r'back[- ]bone': 'backbone',
    r'multi-modal': 'multimodal',
    r'pre-train': 'pretrain',
    r'(?<!_)finetun': 'fine-tune',
}


def prose(text: str) -> str:
    """Return text without code, equations, addresses and citations."""
    patterns = (
        r'^( *)(```|~~~).*?^\1\2$',
        r'\{[\w:]+\}`[^`]*`',
        r'``?[^`]*``?',
        r'\]\([^)]*\)',
        r'<?https?://\S+',
        r'\*[A-Z][^*]*\*',
    )
    for pattern in patterns:
        text = re.sub(pattern, ' ', text, flags=re.M | re.S)
    return text


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.stem)
def test_names_are_spelt_in_one_way(page: Path) -> None:
    text = prose(page.read_text())
    wrong = {
        found.group(): right
        for pattern, right in SPELLINGS.items()
        for found in re.finditer(pattern, text)
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ('text', 'left'),
    [
        ('of `Trifeatures` here', ''),
        ('[Comm](x.md)', 'Comm'),
        ('[here](https://x.org/Comm)', ''),
        ('```python\nimport Comm\n```', ''),
        ('{py:class}`~x.Comm`', ''),
        ('a *Comm Title* there', ''),
    ],
)
def test_prose_is_what_is_looked_at(text: str, left: str) -> None:
    assert ('Comm' in prose(text)) == bool(left)
    assert 'Trifeatures' not in prose(text)


def test_script_draws_every_stored_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DOCS)
    figures = runpy.run_path(str(DOCS / 'figures.py'))
    figures['main'](tmp_path)
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob('*.svg')}
    assert len(drawn) == len(figures['FIGURES'])
    assert drawn <= {
        p.relative_to(DOCS / '_static') for p in (DOCS / '_static').rglob('*.svg')
    }


def test_every_figure_has_a_page_and_words_for_those_who_do_not_see_it() -> None:
    texts = {page: page.read_text() for page in PAGES}
    shown = {
        (page.parent / path).resolve()
        for page, text in texts.items()
        for path in re.findall(
            r'(?:\{figure\} |\{image\} |!\[[^\]]+\]\()([\w./]+)', text
        )
    }
    kept = {p for s in ('png', 'svg') for p in (DOCS / '_static').rglob(f'*.{s}')}
    assert shown == kept
    figures = [
        f
        for text in texts.values()
        for f in re.findall(r'\{figure\}.*\n(?::.*\n)+', text)
    ]
    assert figures and all(re.search(r'^:alt: \S', f, re.M) for f in figures)


def slugs(page: Path) -> set[str]:
    """Return MyST's anchors of the headings of a page, of the first three levels."""
    text = re.sub(
        r'^( *)(```|~~~|:::).*?^\1\2$', '', page.read_text(), flags=re.M | re.S
    )
    headings = re.findall(r'^#{1,3} (.+)$', text, re.M)
    plain = (re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', h).lower() for h in headings)
    return {re.sub(r'[^\w\- ]', '', h).replace(' ', '-') for h in plain}


def test_links_to_headings_exist() -> None:
    """Check that each link to a section has a heading."""
    broken = [
        f'{page.name}: {path}#{anchor}'
        for page in PAGES
        for path, anchor in re.findall(r'\]\(([\w./-]*)#([\w-]+)\)', page.read_text())
        if anchor not in slugs((page.parent / path) if path else page)
    ]
    assert broken == []


def test_gallery_has_every_picture_of_its_script() -> None:
    script = runpy.run_path(str(DOCS / 'gallery.py'))
    stored = {file.stem: file for file in script['FOLDER'].glob('*.png')}
    assert stored.keys() == script['PLOTS'].keys() | script['REPORT'].keys()
    shown = set(re.findall(r'_static/([\w/.]+)', (DOCS / 'gallery.md').read_text()))
    sizes = {path: (DOCS / '_static' / path).stat().st_size for path in shown}
    assert {path: n for path, n in sizes.items() if n > script['LARGEST']} == {}
    noise = np.random.default_rng(0).integers(0, 256, (600, 1200, 3), np.uint8)
    smooth = Image.fromarray(noise).resize((60, 30)).resize((1200, 600))
    assert len(script['compress'](smooth)) <= script['LARGEST']
    with pytest.raises(ValueError, match='at most 60000 bytes'):
        script['compress'](Image.fromarray(noise))
