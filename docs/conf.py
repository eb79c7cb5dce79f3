"""Configuration of the documentation: `sphinx-build -W --keep-going -n -b html docs docs/_build/html`."""

import csv
import importlib
import inspect
import os
import pkgutil
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parents[1]))

import torchgeo_decur
from experiments import summary
from experiments import table as tables
from experiments.benchmarks import record, targets
from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.weights.enums import WEIGHTS

project = 'torchgeo-decur'
author = 'torchgeo-decur contributors'
copyright = f'2026, {author}'
version = release = torchgeo_decur.__version__

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build']
templates_path = ['_templates']

html_math_renderer = 'mathml'
html_theme = 'pydata_sphinx_theme'
html_title = project
html_static_path = ['_static']
html_css_files = ['pages.css']
html_show_sourcelink = False
html_sidebars = {'**': ['sidebar-pages']}
html_theme_options = {
    'navbar_center': [],
    'navigation_with_keys': False,
    'secondary_sidebar_items': ['page-toc'],
    'show_toc_level': 2,
}

myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath', 'substitution']
myst_heading_anchors = 3

# Tutorials are executed during the build, so a failing cell fails the build. Outputs are cached beside the site
# and reused until a cell of the page changes. The cache does not detect changes of the package.
nb_execution_mode = 'cache'
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# Environment of the kernels: figures appear on the page; one thread, as in the tests, because threads block each
# other on a busy machine; the same warnings are ignored as in the tests.
os.environ.pop('MPLBACKEND', None)
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ['JSONARGPARSE_DEPRECATION_WARNINGS'] = 'off'
os.environ['PYTHONWARNINGS'] = ','.join(
    [
        'ignore:IProgress not found',
        'ignore:`isinstance(treespec:FutureWarning',
        *(
            f"ignore:The '{s}_dataloader' does"
            for s in ('train', 'val', 'test', 'predict')
        ),
    ]
)

autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

# The site is built without network access, so names of other projects are not linked.
_OTHERS = (
    'captum',
    'geopandas',
    'huggingface_hub',
    'jsonargparse',
    'kornia',
    'lightly',
    'lightning',
    'litdata',
    'matplotlib',
    'numpy',
    'pandas',
    'pyproj',
    'rasterio',
    'safetensors',
    'segmentation_models_pytorch',
    'shapely',
    'sklearn',
    'timm',
    'torch',
    'torchgeo',
    'torchmetrics',
    'torchvision',
    *sys.stdlib_module_names,
)
nitpick_ignore_regex = [
    ('py:.*', rf'({"|".join(_OTHERS)})\..*'),
    ('py:exc', r'[A-Z]\w*(Error|Warning)'),
]
# Private items and stores of datasets, base classes of enums, and type aliases that the signatures spell out.
nitpick_ignore = [
    ('py:class', 'torchgeo_decur.datasets.archives.stores.PlaceStore'),
    ('py:class', 'torchgeo_decur.datasets.archives.stores.TarShards'),
    ('py:class', 'torchgeo_decur.datasets.bigearthnet.BigEarthNetPatch'),
    ('py:class', 'torchgeo_decur.datasets.geonrw.GeoNRWPatch'),
    ('py:class', 'torchgeo_decur.datasets.paired_folders.Frame'),
    ('py:class', 'torchgeo_decur.datasets.rgbd.sunrgbd.SUNFrame'),
    ('py:class', 'torchgeo_decur.callbacks.compare_baseline.Baseline'),
    ('py:class', 'torchgeo_decur.datasets.epochs.DatedDataset'),
    ('py:class', 'torchgeo_decur.datasets.synthetic.base.SyntheticScenes'),
    ('py:class', 'torchgeo_decur.models.frozen_encoder.Pool'),
    ('py:class', 'torchgeo_decur.models.frozen_encoder.Scale'),
    ('py:class', 'torchgeo_decur.weights.metadata.EncoderMetadata'),
    ('py:class', 'torchgeo_decur.datasets.scene_labels.SceneLabels'),
    ('py:class', 'torchgeo_decur.losses.functional.Subset'),
    ('py:class', 'torchgeo_decur.losses.info_nce._Part'),
    ('py:class', 'torchgeo_decur.tasks.transfer.target_guard.TargetGuard'),
    ('py:type', 'torchgeo_decur.losses.info_nce._Part'),
    ('py:class', 'torchgeo_decur.models.encoder.Weights'),
    ('py:class', 'torchgeo_decur.losses.base.PairwiseLoss'),
    ('py:class', 'torchgeo_decur.models.named_model.NamedModel'),
    ('py:class', 'torchgeo_decur.losses.functional.Embedding'),
    ('py:class', 'torchgeo_decur.losses.info_nce.Directions'),
    ('py:class', 'torchgeo_decur.losses.vicreg.View'),
    ('py:class', 'torchgeo_decur.analysis.shared_directions.Array'),
    ('py:class', 'torchgeo_decur.weights.load.Source'),
    ('py:class', 'torchgeo_decur.weights.enums.DeCURWeights'),
]


def modality_table() -> str:
    """Render the known modalities as a Markdown table."""
    lines = [
        '| name | kind | unit | bands | range mapped to [0, 1] |',
        '|---|---|---|---|---|',
    ]
    for name, modality in MODALITIES.items():
        if modality.mean:
            scale = 'mean ± 2 std of each band'
        elif modality.limits:
            scale = '0 to 255'
        else:
            scale = '1st to 99th percentile of each patch'
        bands = ' '.join(modality.bands)
        lines.append(
            f'| `{name}` | {modality.kind} | {modality.unit} | {bands} | {scale} |'
        )
    return '\n'.join(lines)


def statistics_table(name: str) -> str:
    """Render the statistics of a known modality as a Markdown table."""
    modality = MODALITIES[name]
    lines = [
        f'| band | mean ({modality.unit}) | std ({modality.unit}) |',
        '|---|---:|---:|',
    ]
    lines += [
        f'| {band} | {mean} | {std} |'
        for band, mean, std in zip(
            modality.bands, modality.mean or (), modality.std or (), strict=True
        )
    ]
    return '\n'.join(lines)


def weights_table() -> str:
    """Render the published weights as a Markdown table."""
    lines = [
        '| name | modalities and bands | backbone | data, epochs | files |',
        '|---|---|---|---|---|',
    ]
    for entry in (entry for enum in WEIGHTS for entry in enum):
        meta = entry.meta
        bands = meta['bands']
        if not isinstance(bands, dict):
            bands = {meta['modalities'][0]: bands}
        inputs = [f'`{m}`: {" ".join(names)}' for m, names in bands.items()]
        files = [f'[{url.rpartition("/")[2]}]({url})' for url in entry.urls]
        cells = [
            f'`{entry}`',
            '<br>'.join(inputs),
            f'`{meta["model"]}`',
            f'{meta["dataset"]}, {meta["epochs"]}',
            '<br>'.join(files),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def results_table(name: str) -> str:
    """Render the results of a table of experiments."""
    folder = Path(__file__).parents[1] / 'experiments'
    return tables.render(folder / 'tables' / f'{name}.yaml')


def summary_table() -> str:
    """Render the first table of the results page."""
    return summary.render_summary()


def fold(text: str, summary: str) -> str:
    """Return collapsible text with a summary line."""
    return f'<details>\n<summary>{summary}</summary>\n\n{text.strip()}\n\n</details>'


def means_table(name: str) -> str:
    """Render the means of several cells of a table, with its cells collapsed."""
    cells, means = results_table(name).split('Means of several cells:')
    return f'{means.strip()}\n\n{fold(cells, "Each cell")}'


def parts_table(name: str, method: str) -> str:
    """Render a table of experiments, with the probes of one method by part collapsed."""
    title = f'{method}, by part'
    cells, parts = results_table(name).split(f'{title}:')
    return f'{cells.strip()}\n\n{fold(parts, title)}'


def measured_table(method: str) -> str:
    """Render the main results of one method, beside those of random encoders."""
    wanted = (method, f'{method}, biased pairs', 'random')
    found = []
    titles = {'trifeature': 'drawn pairs', 'objectives': 'scenes'}
    titles['trifeature_rivals'] = titles['trifeature']
    for table, title in titles.items():
        lines = results_table(table).split('\n')
        tables = groupby(lines, key=lambda line: line[:1] == '|')
        rows = next((list(group) for is_table, group in tables if is_table), [])
        kept = [row for row in rows[2:] if row.split('|')[1].strip() in wanted]
        if any(row.split('|')[1].strip() != 'random' for row in kept):
            head = f'| {title} |{rows[0].split("|", 2)[2]}'
            found += ['\n'.join([head, rows[1], *kept])]
    return '\n\n'.join(found) or '*No results yet.*'


def benchmark_table(name: str) -> str:
    """Render the latest results of a benchmark."""
    folder = Path(__file__).parents[1] / 'experiments' / 'benchmarks'
    path = folder / f'results_{name}.csv'
    if not path.exists():
        return f'*Not measured yet: `python -m experiments.benchmarks.{name}`.*'
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    last = [row for row in rows if row['commit'] == rows[-1]['commit']]
    # The parts of a step are shown in a separate table.
    shown = [row for row in last if ' part=' not in row['case']]
    # The loss has many cases, so its table lists the forms without the ratios.
    render = {'loss': record.render_forms, 'cost': record.render_costs}
    return render.get(name, record.render)(shown)


def step_parts(batch: str = 'batch=8') -> str:
    """Render the time of each part of a training step for one batch size."""
    folder = Path(__file__).parents[1] / 'experiments' / 'benchmarks'
    path = folder / 'results_step.csv'
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    last = [
        row
        for row in rows
        if row['commit'] == rows[-1]['commit'] and batch in row['case'].split()
    ]
    return record.render_parts(last)


def benchmark_targets() -> str:
    """Render the benchmark targets and whether they are met."""
    return targets.render_targets()


def public_names(module: str) -> list[str]:
    """Return the public names of a module: `__all__`, or the names it documents."""
    found = importlib.import_module(module)
    if hasattr(found, '__all__'):
        return [n for n in found.__all__ if is_described(found, n)]
    own = [
        name
        for name, value in vars(found).items()
        if name.isupper()
        or (getattr(value, '__module__', None) == module and inspect.getdoc(value))
    ]
    return [name for name in own if not name.startswith('_')]


def is_described(package: Any, name: str) -> bool:
    """Return whether the page of a package documents one of its public names."""
    home = getattr(getattr(package, name), '__module__', package.__name__)
    path = f'{package.__name__}.{name}'
    return public_paths().get(f'{home}.{name}', path) == path


def public_paths() -> dict[str, str]:
    """Return the import path of each public object, by its full name."""
    paths = {}
    for module in pkgutil.iter_modules(torchgeo_decur.__path__, 'torchgeo_decur.'):
        if module.ispkg:
            package = importlib.import_module(module.name)
            for name in getattr(package, '__all__', ()):
                home = getattr(getattr(package, name), '__module__', module.name)
                # The first package that exports a name documents it.
                paths.setdefault(f'{home}.{name}', f'{module.name}.{name}')
    return paths


def resolve_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Link `torchgeo_decur.losses.decur.DeCURLoss` to `torchgeo_decur.losses.DeCURLoss`."""
    target = node.get('reftarget', '')
    owner, _, member = target.rpartition('.')
    public = app.public_paths.get(target)  # type: ignore[attr-defined]
    if public is None and owner in app.public_paths:  # type: ignore[attr-defined]
        public = f'{app.public_paths[owner]}.{member}'  # type: ignore[attr-defined]
    if node.get('refdomain') != 'py' or public is None:
        return None
    domain: Any = env.get_domain('py')
    # Annotations refer to any object as a class.
    return domain.resolve_xref(
        env, node['refdoc'], app.builder, 'obj', public, node, contnode
    )


def describe_data(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Use the docstring of a constant instead of the docstring of its type."""
    module, _, constant = name.rpartition('.')
    if what != 'data' or not name.startswith('torchgeo_decur.'):
        return
    homes = [module]
    if path := getattr(sys.modules[module], '__path__', None):
        homes += [m.name for m in pkgutil.iter_modules(path, f'{module}.')]
    texts = (
        ModuleAnalyzer.for_module(home).find_attr_docs().get(('', constant))
        for home in homes
    )
    lines[:] = next((text for text in texts if text), [])


def write_inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers render without network access."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_equation(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation as MathML, with its number if it has one."""
    writer.body.append(writer.starttag(node, 'div', CLASS='math'))
    if node['number']:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})')
        writer.add_permalink_ref(node, 'Link to this equation')
        writer.body.append('</span>')
    equation = convert(node.astext(), display='block')
    writer.body.append(f'<div>{equation}</div></div>')
    raise nodes.SkipNode


def hide_old_names(app: Sphinx, function: Any, bound: bool) -> None:
    """Remove deprecated argument names from a signature."""
    if hasattr(function, 'renamed'):
        vars(function).pop('__signature__', None)


def setup(app: Sphinx) -> None:
    """Register the functions above with Sphinx."""
    app.add_html_math_renderer(
        'mathml', (write_inline_math, None), (write_equation, None)
    )
    app.public_paths = public_paths()  # type: ignore[attr-defined]
    app.connect('autodoc-before-process-signature', hide_old_names)
    app.connect('autodoc-process-docstring', describe_data)
    app.connect('missing-reference', resolve_public)


autosummary_context = {'public_names': public_names}
myst_substitutions = {
    'modality_table': modality_table(),
    's1_statistics': statistics_table('sentinel1_grd'),
    's2_statistics': statistics_table('sentinel2_l1c'),
    'summary_results': summary_table(),
    'pothole_results': results_table('pothole'),
    'synthetic_results': results_table('synthetic'),
    'trifeature_results': parts_table('trifeature', 'DeCUR'),
    'trifeature_rivals_results': results_table('trifeature_rivals'),
    'objectives_results': fold(
        results_table('objectives'), 'All tables of the comparison'
    ),
    'precision_results': results_table('precision'),
    'rates_results': fold(results_table('learning_rates'), 'All 27 pretraining runs'),
    'lars_results': results_table('lars'),
    'few_labels_results': means_table('few_labels'),
    'share_results': results_table('common_share'),
    'factors_results': fold(results_table('factors'), 'All ratios'),
    'factors_narrow_results': fold(results_table('factors_narrow'), '16 features'),
    'factors_longer_results': fold(results_table('factors_longer'), '512 steps'),
    'partly_paired_results': results_table('partly_paired'),
    'strength_results': fold(results_table('strength'), 'All cells'),
    'projector_results': results_table('projector'),
    'adaptive_results': results_table('adaptive'),
    'attention_results': results_table('attention'),
    'sensitivity_results': results_table('sensitivity'),
    'radar_results': results_table('radar_augmentation'),
    'zion_results': results_table('zion'),
    'street_results': results_table('pothole_pretrained'),
    'bigearthnet_results': results_table('bigearthnet_few'),
    'constant_pixels_results': results_table('constant_pixels'),
    'constant_labels_results': results_table('constant_labels'),
    'weights_table': weights_table(),
    **{
        f'{method.lower().replace(" ", "_")}_measured': measured_table(method)
        for method in (
            'DeCUR',
            'Barlow Twins',
            'VICReg',
            'SimCLR',
            'CLIP',
            'CoMM',
            'COrAL',
            'FactorCL',
            'InfMasking',
        )
    },
    **{
        f'{name}_benchmark': benchmark_table(name)
        for name in (
            'archives',
            'augmentation',
            'chips',
            'compile',
            'cost',
            'data',
            'loss',
            'scaling',
            'soak',
            'startup',
            'step',
        )
    },
    'benchmark_targets': benchmark_targets(),
    'step_parts': step_parts(),
}
suppress_warnings = ['config.cache']  # the function in autosummary_context
