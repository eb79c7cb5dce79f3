"""Draw the diagrams of the pages as SVG: `python docs/figures.py` rewrites them in docs/_static.

All diagrams use the same colors: gray for the first modality, green for the second, blue for shared, and
orange and pink for unique dimensions. In a matrix, the target is one on thick blue lines and zero in white
areas; hatched areas are not used.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from drawing import COMMON, FIRST, LINE, ONE, PLAIN, SECOND, UNIQUE, WHITE, Drawing

STATIC = Path(__file__).parent / '_static'


def pair_of_encoders(drawing: Drawing, rows: tuple[int, int], last: str) -> None:
    """Draw the first elements of all pair objectives: two images, encoders, projectors."""
    for words, x in (('images', 55), ('encoders', 175), ('projectors', 290)):
        drawing.text(x, 22, words, 12)
    drawing.text(400, 22, last, 12)
    for y, name, (light, dark) in zip(rows, ('s1', 's2'), (FIRST, SECOND), strict=True):
        drawing.box(15, y - 25, 80, 50, light, f'{name}\nview v')
        drawing.funnel(130, y, 90, dark, f'f of {name}', 12)
        drawing.funnel(245, y, 90, dark, f'g of {name}', -12)
        drawing.box(362, y - 11, 76, 22, dark, f'z of {name}', 12)
        for start, end in ((95, 126), (220, 241), (335, 358)):
            drawing.arrow(f'M{start} {y} H{end}')


def barlow_twins() -> Drawing:
    """Draw the correlation matrix across modalities, with the identity as target."""
    d = Drawing(
        'Barlow Twins between modalities',
        'The embeddings of two modalities are correlated over the batch. The loss drives the matrix of all dimensions toward the identity.',
        240,
    )
    pair_of_encoders(d, (75, 175), 'N samples')
    d.matrix(560, 55, 120, 'cross_s1_s2, D × D: identity')
    d.arrow('M438 75 C490 75 500 100 554 108')
    d.arrow('M438 175 C490 175 500 130 554 122')
    d.text(492, 128, 'correlate', 12)
    return d


def vicreg() -> Drawing:
    """Draw the distance across modalities, and variance and covariance within each."""
    d = Drawing(
        'VICReg between modalities',
        'The loss makes the embeddings of two modalities equal. Within each modality, it preserves a standard deviation of one in each dimension and drives covariances to zero.',
        300,
    )
    rows = (85, 215)
    pair_of_encoders(d, rows, 'N samples')
    d.arrow('M400 98 V202', both=True)
    d.text(410, 154, 'invariance: equal', 12, 'start')
    for y in rows:
        d.arrow(f'M438 {y} H488')
        d.matrix(494, y - 40, 80, 'covariance: zero', ones=False)
        d.shape(f'M494 {y - 40} l80 80', more=' stroke-dasharray="2 3"')
        d.arrow(f'M574 {y} H618')
        for i, height in enumerate((52, 46, 55, 49, 51, 47)):
            d.box(628 + 16 * i, y + 40 - height, 11, height, WHITE)
        d.shape(f'M620 {y - 10} H730', more=f' stroke-width="2" style="stroke:{ONE}"')
        d.text(676, y + 57, 'variance: std of at least 1', 12)
    return d


def simclr() -> Drawing:
    """Draw all similarities of both modalities, with one positive per row."""
    d = Drawing(
        'SimCLR between modalities',
        'Matrix of similarities between all embeddings of both modalities. The other modality of the same location is the positive; all other embeddings are negatives.',
        270,
    )
    pair_of_encoders(d, (85, 185), '2N samples')
    x, y, half = 545, 45, 85
    d.matrix(x, y, 2 * half, 'similarities, 2N × 2N: softmax of each row', ones=False)
    d.shape(f'M{x + half} {y} v{2 * half} M{x} {y + half} h{2 * half}')
    for dx, dy in ((half, 0), (0, half)):
        d.diagonal(x + dx, y + dy, half)
    d.parts.append(
        f'  <path d="M{x} {y} l{2 * half} {2 * half}" stroke="#c4c4c4" stroke-width="5"/>\n'
    )
    d.text(x + half / 2, y - 8, 's1', 12)
    d.text(x + 1.5 * half, y - 8, 's2', 12)
    d.text(x - 12, y + half / 2 + 4, 's1', 12)
    d.text(x - 12, y + 1.5 * half + 4, 's2', 12)
    d.arrow('M438 85 C480 85 480 110 520 118')
    d.arrow('M438 185 C480 185 480 150 520 138')
    return d


def clip() -> Drawing:
    """Draw the similarities across modalities, with a softmax of rows and columns."""
    d = Drawing(
        'CLIP between modalities',
        'Matrix of similarities between the embeddings of two modalities, divided by a learned temperature. The diagonal is the correct match in each row and column.',
        250,
    )
    pair_of_encoders(d, (75, 175), 'N samples')
    d.matrix(560, 55, 130, 's1 × s2, N × N, divided by τ')
    d.arrow('M438 75 C490 75 500 100 536 110')
    d.arrow('M438 175 C490 175 500 140 536 130')
    d.arrow('M560 46 H690')
    d.text(625, 38, 'softmax of each row', 12)
    d.arrow('M700 55 V185')
    d.text(709, 112, 'and\ncolumn', 12, 'start')
    return d


def tokens(
    d: Drawing, x: float, y: float, fill: str, masked: tuple[int, ...] = ()
) -> None:
    """Draw a row of tokens, with masked tokens hatched."""
    for i in range(5):
        d.box(x + 15 * i, y - 8, 12, 16, 'url(#unused)' if i in masked else fill)


def comm() -> Drawing:
    """Draw one transformer for all tokens and for the tokens of each modality."""
    d = Drawing(
        'CoMM',
        'A transformer computes the joint embedding from the tokens of both modalities, and one embedding from the tokens of each modality. Each embedding is contrasted with the joint embedding of the other view.',
        300,
    )
    d.text(55, 22, 'one view', 12)
    d.text(265, 22, 'tokens', 12)
    d.text(420, 22, 'one transformer, run three times', 12)
    d.text(650, 22, 'the other view', 12)
    for y, name, (light, dark) in ((85, 's1', FIRST), (215, 's2', SECOND)):
        d.box(15, y - 25, 70, 50, light, name)
        d.funnel(115, y, 85, dark, f'f of {name}', 12)
        d.arrow(f'M85 {y} H111')
        d.arrow(f'M200 {y} H222')
        tokens(d, 228, y, dark)
        d.arrow(f'M302 {y} H352')
        d.box(358, y - 22, 124, 44, PLAIN, f'{name} only')
        d.box(520, y - 11, 50, 22, dark, f'z {name}', 12)
        d.arrow(f'M482 {y} H516')
    d.arrow('M302 90 C325 95 325 140 352 146')
    d.arrow('M302 210 C325 205 325 160 352 154')
    d.box(358, 128, 124, 44, COMMON, 's1 and s2')
    d.box(520, 139, 50, 22, COMMON, 'z joint', 12)
    d.arrow('M482 150 H516')
    d.box(670, 139, 70, 22, COMMON, 'z joint', 12)
    for y in (85, 150, 215):
        d.arrow(f'M572 {y} L666 {150 + (y - 150) // 8}', both=True)
    d.text(625, 100, 'InfoNCE', 12, 'start')
    d.text(
        380,
        275,
        'The loss also includes these terms with the views exchanged, and is their mean.',
        12,
    )
    return d


def infmasking() -> Drawing:
    """Draw one transformer for all tokens and for random subsets."""
    d = Drawing(
        'InfMasking',
        'A transformer computes the joint embedding from the tokens of both modalities. Under several random masks, few tokens of each modality remain, and the same transformer computes masked embeddings. Their mean and variance are contrasted with the joint embedding.',
        300,
    )
    d.text(55, 22, 'one view', 12)
    d.text(290, 22, 'remaining tokens', 12)
    d.text(455, 22, 'one transformer', 12)
    d.text(595, 22, 'embeddings', 12)
    for y, name, (light, dark) in ((80, 's1', FIRST), (170, 's2', SECOND)):
        d.box(15, y - 25, 70, 50, light, name)
        d.funnel(110, y, 85, dark, f'f of {name}', 12)
        d.arrow(f'M85 {y} H106')
    subsets = ((), (0, 1, 3, 4), (1, 2, 3, 4), (0, 2, 3, 4))
    for i, masked in enumerate(subsets):
        y = 65 + 55 * i
        tokens(d, 222, y, FIRST[1], masked)
        tokens(d, 305, y, SECOND[1], tuple(4 - k for k in masked))
        d.arrow(f'M384 {y} H408')
        d.box(412, y - 18, 86, 36, COMMON if not i else PLAIN, 'fuse')
        d.arrow(f'M498 {y} H544')
        words = f'z mask {i}' if i else 'z joint'
        d.box(548, y - 11, 90, 22, COMMON if not i else PLAIN, words, 12)
    d.shape('M195 80 H205 V230 M195 170 H205 M205 65 H218 M205 120 H218')
    d.shape('M205 175 H218 M205 230 H218 M205 80 V65')
    d.shape('M644 109 H652 V241 H644')
    d.arrow('M652 175 C700 170 700 80 642 66', both=True)
    d.text(726, 125, 'InfoNCE', 12)
    d.text(660, 200, 'mean and\nvariance', 12, 'start')
    d.text(380, 280, 'The loss also includes the terms of CoMM.', 12)
    return d


def factorcl() -> Drawing:
    """Draw the bounds between parts of the embeddings and their second views."""
    d = Drawing(
        'FactorCL',
        'Each of two modalities has an encoder and several projectors. The method maximizes lower bounds on the information that both modalities share and that each modality shares with its second view. It minimizes upper bounds on the information that augmentations remove and that the unique parts share.',
        300,
    )
    for words, x in (
        ('two views', 50),
        ('encoders', 150),
        ('projectors', 250),
        ('parts', 345),
        ('bounds from critics', 580),
    ):
        d.text(x, 22, words, 12)
    for y, name, (light, dark) in ((85, 's1', FIRST), (215, 's2', SECOND)):
        d.box(24, y - 31, 62, 50, light)
        d.box(16, y - 23, 62, 50, light, f"{name}, {name}'", 12)
        d.arrow(f'M86 {y} H106')
        d.funnel(110, y, 80, dark, f'f of {name}', 12)
        d.arrow(f'M190 {y} H208')
        d.funnel(212, y, 76, dark, '5 heads', -12)
        unique = UNIQUE[0] if name == 's1' else UNIQUE[1]
        for dy, words, fill in ((-19, 'shared', COMMON), (19, 'unique', unique)):
            d.arrow(f'M288 {y} L306 {y + dy}')
            d.box(310, y + dy - 13, 76, 26, fill, words, 12)
    rows = (
        ('+', 'I NCE (s1; s2)', COMMON),
        ('−', "I CLUB (s1; s2 | s1', s2')", COMMON),
        ('+', "I NCE (s1; s1')", UNIQUE[0]),
        ('+', "I NCE (s2; s2')", UNIQUE[1]),
        ('−', 'I CLUB (s1; s2)', PLAIN),
        ('+', "I NCE (s1; s2 | s1', s2')", PLAIN),
    )
    for i, (sign, words, fill) in enumerate(rows):
        y = 55 + 38 * i
        d.text(470, y + 5, sign, 16)
        d.box(490, y - 14, 200, 28, fill, words, 12)
    d.shape('M392 66 H420 V74 M392 196 H420 V74 M420 74 H440')
    d.shape('M392 104 H430 V188 M392 234 H430 V188 M430 188 H440')
    d.shape('M452 42 H444 V106 H452 M452 118 H444 V258 H452')
    d.text(580, 285, '+ is maximized, − is minimized', 12)
    return d


def coral() -> Drawing:
    """Draw the shared path with masked tokens, and the orthogonal unique paths."""
    d = Drawing(
        'COrAL',
        'The shared path fuses tokens of all modalities, with most tokens of one modality masked. A second encoder per modality computes unique embeddings. Each embedding is contrasted with its counterpart in the other view, and the loss makes different embeddings orthogonal.',
        340,
    )
    for words, x in (
        ('one view', 55),
        ('encoders', 160),
        ('tokens', 275),
        ('embeddings', 545),
        ('the other view', 690),
    ):
        d.text(x, 22, words, 12)
    d.box(15, 95, 70, 50, FIRST[0], 's1')
    d.box(15, 195, 70, 50, SECOND[0], 's2')
    rows = (
        (65, 's1', FIRST, 120, ()),
        (140, 's1', FIRST, 120, (0, 1, 3, 4)),
        (205, 's2', SECOND, 220, ()),
        (275, 's2', SECOND, 220, ()),
    )
    for y, name, (_, dark), start, masked in rows:
        d.funnel(
            120, y, 80, dark, f'f of {name}' if 100 < y < 250 else f'u of {name}', 12
        )
        d.arrow(f'M85 {start} L117 {y}')
        d.arrow(f'M200 {y} H232')
        tokens(d, 238, y, dark, masked)
    d.text(275, 165, 'masked in this view', 11)
    d.box(370, 145, 110, 55, COMMON, 'transformer')
    d.arrow('M312 140 C335 140 340 160 366 165')
    d.arrow('M312 205 C335 205 340 185 366 180')
    for y in (65, 275):
        d.box(370, y - 16, 110, 32, PLAIN, 'attention pooling', 12)
        d.arrow(f'M312 {y} H366')
    for y, words, fill in (
        (65, 'unique s1', UNIQUE[0]),
        (172, 'shared', COMMON),
        (275, 'unique s2', UNIQUE[1]),
    ):
        d.arrow(f'M480 {y} H506')
        d.box(510, y - 13, 75, 26, fill, words, 12)
        d.box(655, y - 13, 75, 26, fill, words, 12)
        d.arrow(f'M587 {y} H651', both=True)
        d.text(619, y - 8, 'InfoNCE', 11)
    d.arrow('M540 80 V157', both=True, dashed=True)
    d.arrow('M540 187 V260', both=True, dashed=True)
    d.text(548, 122, 'orthogonal', 11, 'start')
    d.text(548, 228, 'orthogonal; also between s1 and s2', 11, 'start')
    d.text(380, 325, 'In the other view, tokens of s2 are masked.', 12)
    return d


def cmx() -> Drawing:
    """Draw two encoders that exchange features after each stage."""
    d = Drawing(
        'CMX',
        'After each of four stages, the maps of two modalities rectify each other. The rectified maps are the input of the next stage and are fused into one map for the decoder.',
        300,
    )
    for y, name, light in ((60, 'rgb', FIRST[0]), (240, 'hha', SECOND[0])):
        d.box(10, y - 22, 50, 44, light, name)
        d.arrow(f'M60 {y} H78')
    for i in range(4):
        x = 82 + 150 * i
        for y, (_, dark) in ((60, FIRST), (240, SECOND)):
            d.box(x, y - 22, 56, 44, dark, f'stage\n{i + 1}', 12)
            d.arrow(f'M{x + 56} {y} H{x + 72}')
        d.box(x + 74, 36, 44, 228, COMMON)
        d.text(x + 96, 62, 'rectify', 11)
        d.arrow(f'M{x + 96} 76 V124', both=True)
        d.box(x + 70, 130, 52, 40, WHITE, 'fuse', 12)
        d.arrow(f'M{x + 96} 176 V228', both=True)
        if i < 3:
            for y in (60, 240):
                d.arrow(f'M{x + 118} {y} H{x + 146}')
        d.text(x + 96, 284, f'1 / {4 * 2**i}', 11)
        d.arrow(f'M{x + 122} 150 H{x + 130} V{138 + 8 * i} H698', dashed=True)
    d.box(702, 118, 50, 64, PLAIN, 'decoder', 11)
    return d


def deformable_attention() -> Drawing:
    """Draw a grid of points, moved by offsets, to which every position attends."""
    d = Drawing(
        'Residual deformable attention',
        'Offsets computed from the queries move a coarse grid of reference points on a feature map. All positions attend to the map at the moved points, and the output is added to the map.',
        280,
    )
    d.parts.append(
        f'  <rect x="30" y="50" width="170" height="170" fill="{FIRST[0]}" stroke="{LINE}"/>\n'
    )
    d.text(115, 30, 'map x, points of a group', 12)
    moves = ((18, -8), (-14, 12), (20, 16), (8, 20), (-20, -14), (14, -20))
    moves = (*moves, (-12, 16), (16, 10), (-18, -6))
    for i, (dx, dy) in enumerate(moves):
        x, y = 62 + 53 * (i % 3), 82 + 53 * (i // 3)
        d.parts.append(f'  <circle cx="{x}" cy="{y}" r="4" fill="#999"/>\n')
        d.arrow(f'M{x} {y} L{x + 0.8 * dx:g} {y + 0.8 * dy:g}')
        d.parts.append(
            f'  <circle cx="{x + dx}" cy="{y + dy}" r="4.5" fill="{UNIQUE[0]}" stroke="{LINE}"/>\n'
        )
    d.text(115, 240, 'gray: reference r,  orange: r + o(q)', 12)
    d.box(260, 60, 90, 40, WHITE, 'queries q')
    d.box(260, 165, 90, 40, WHITE, 'keys k,\nvalues v', 12)
    d.arrow('M200 80 H256')
    d.arrow('M200 185 H256')
    d.text(228, 72, 'all', 11)
    d.text(228, 177, 'points', 11)
    d.arrow('M275 100 C275 140 240 145 204 145', dashed=True)
    d.text(282, 136, 'offsets o(q)', 11, 'start')
    d.box(410, 110, 130, 50, COMMON, 'softmax(q kᵀ + b) v', 12)
    d.arrow('M350 80 C380 80 385 115 406 125')
    d.arrow('M350 185 C380 185 385 155 406 145')
    d.arrow('M540 135 H600')
    d.text(570, 126, '1 × 1', 11)
    d.parts.append(
        f'  <circle cx="615" cy="135" r="12" fill="{WHITE}" stroke="{LINE}"/>\n'
    )
    d.text(615, 140, '+', 16)
    d.arrow('M115 50 V44 M200 60 C300 10 615 10 615 120')
    d.text(470, 40, 'residual', 11)
    d.arrow('M627 135 H665')
    d.box(668, 100, 75, 70, FIRST[0], 'map x,\nsame size', 12)
    return d


def imports() -> Drawing:
    """Draw the import rules, from the leaves at the bottom to the commands at the top."""
    d = Drawing(
        'Layers of the package',
        'Four layers; each may import the layers below it. Modalities, losses, config, files and the published weights are at the bottom. Transforms, weights and models are above them, followed by data and tasks side by side. Analyses, callbacks and the command are at the top.',
        350,
    )
    floors = (
        (30, PLAIN, ('cli', 'callbacks', 'interop')),
        (110, WHITE, ('datasets, datamodules', 'packed', 'tasks', 'analysis')),
        (190, COMMON, ('transforms', 'weights', 'models')),
        (
            270,
            FIRST[0],
            ('modalities', 'losses', 'config', 'files', 'published_weights'),
        ),
    )
    notes = ('top', 'data and training', 'shared', 'leaves')
    for (y, fill, names), note in zip(floors, notes, strict=True):
        d.text(12, y + 29, note, 12, 'start')
        gap = 12
        width = (620 - gap * (len(names) - 1)) / len(names)
        for i, name in enumerate(names):
            d.box(130 + i * (width + gap), y, width, 48, fill, name)
        if y < 270:
            d.arrow(f'M440 {y + 48} V{y + 77}')
    d.text(
        440,
        341,
        'Arrows mean: may import. Tasks and datamodules are independent; they share only the format of a batch.',
        12,
    )
    return d


def lives() -> Drawing:
    """Draw the path of a batch and of a checkpoint."""
    d = Drawing(
        'Life of a batch and of a checkpoint',
        'A batch passes from the dataset and loader to the datamodule, which checks and scales it. The task then computes views, features, embeddings and a loss. A checkpoint is exported as encoder files, which initialize transfer tasks. The commands report, probe and embed read the checkpoint.',
        330,
    )
    d.text(12, 28, 'a batch', 13, 'start')
    steps = (
        ('dataset', 'physical units', WHITE),
        ('data loader', '(B, T, C, H, W)', WHITE),
        ('datamodule', 'check, [0, 1]', COMMON),
        ('task', 'views, h, z', PLAIN),
        ('gather', 'all devices', PLAIN),
        ('loss', 'scalars', FIRST[0]),
    )
    for i, (name, what, fill) in enumerate(steps):
        x = 15 + 125 * i
        d.box(x, 42, 104, 56, fill, f'{name}\n{what}', 12)
        if i:
            d.arrow(f'M{x - 21} 70 H{x - 3}')
    d.text(12, 150, 'a checkpoint', 13, 'start')
    d.box(15, 165, 125, 56, WHITE, 'fit\nlast.ckpt, config.yaml', 11)
    d.box(200, 165, 150, 56, COMMON, 'export\nencoders/<m>.pt, .safetensors', 9)
    d.box(410, 165, 150, 56, PLAIN, 'transfer: weights=\nLateFusion…, TorchGeo', 11)
    d.box(620, 165, 125, 56, FIRST[0], 'metrics.csv,\ntables, maps', 12)
    for start, end in ((140, 196), (350, 406), (560, 616)):
        d.arrow(f'M{start} 193 H{end}')
    d.box(200, 255, 150, 44, PLAIN, 'report, probe', 12)
    d.box(410, 255, 150, 44, PLAIN, 'embed: GeoParquet', 12)
    d.arrow('M78 221 V277 H196')
    d.arrow('M78 277 V316 H380 V277 H406')
    d.arrow('M40 221 C40 250 20 250 20 205', dashed=True)
    d.text(12, 262, 'resume', 11, 'start')
    return d


def results() -> Drawing:
    """Draw mean scores with one sensor as dots with confidence intervals."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from experiments.summary import one_sensor

    scores = one_sensor()
    d = Drawing(
        'Score with one sensor for each objective',
        'A dot for each objective and a bar for its 95 % confidence interval, sorted by score. '
        'COrAL and CoMM lead, DeCUR follows, and random encoders are last.',
        352,
    )
    left, step, low, high = 260, 26, 40, 70
    scale = 400 / (high - low)

    def place(score: float) -> float:
        return left + scale * (score - low)

    bottom = 40 + step * len(scores)
    for tick in range(low, high + 1, 5):
        d.shape(f'M{place(tick):g} 30 V{bottom}', more=' stroke-opacity="0.25"')
        d.text(place(tick), bottom + 18, str(tick), 12)
    d.text(place((low + high) / 2), bottom + 38, 'balanced accuracy, %', 12)
    ordered = sorted(scores.items(), key=lambda item: -item[1][0])
    for i, (name, (mean, half)) in enumerate(ordered):
        y = 50 + step * i
        d.text(left - 12, y + 4, name, 13, 'end')
        d.shape(f'M{place(mean - half):.1f} {y} H{place(mean + half):.1f}')
        fill = COMMON if name.startswith('DeCUR') else PLAIN
        d.parts.append(
            f'  <circle cx="{place(mean):.1f}" cy="{y}" r="6" fill="{fill}" stroke="{LINE}"/>\n'
        )
        d.text(675, y + 4, f'{mean:.1f} ± {half:.1f}', 12, 'start')
    return d


FIGURES: dict[str, Callable[[], Drawing]] = {
    'methods/barlow_twins': barlow_twins,
    'methods/vicreg': vicreg,
    'methods/simclr': simclr,
    'methods/clip': clip,
    'methods/comm': comm,
    'methods/coral': coral,
    'methods/factorcl': factorcl,
    'methods/infmasking': infmasking,
    'methods/cmx': cmx,
    'methods/deformable_attention': deformable_attention,
    'imports': imports,
    'lives': lives,
    'results': results,
}


def main(folder: Path = STATIC) -> None:
    """Write all diagrams.

    Args:
        folder: folder of the diagrams.
    """
    for name, draw in FIGURES.items():
        path = folder / f'{name}.svg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(draw().svg())


if __name__ == '__main__':
    main()
