"""Detect folders that contain another version of a dataset."""

from pathlib import Path

from torchgeo.datasets.utils import Path as PathLike

_CURES = {
    'SSL4EO-S12 v1.0 (GeoTIFFs)': 'use SSL4EOS12PairDataModule',
    'SSL4EO-S12 v1.1 (.zarr.zip)': 'use SSL4EOS12V11DataModule',
    'BigEarthNet in LMDB (data.mdb)': 'use the published GeoTIFFs instead',
    'BigEarthNet v1': "set version='v1'",
    'BigEarthNet v2': "set version='v2'",
}


def check_layout(root: PathLike, expected: str) -> None:
    """Check that a folder does not contain another version of a dataset.

    Args:
        root: folder to check.
        expected: expected version, such as 'BigEarthNet v2'.

    Raises:
        ValueError: if the folder contains a known version other than the expected one.
    """
    found = _recognise(Path(root))
    if found and expected not in found:
        raise ValueError(
            f'{root}: expected {expected}, found {found[0]}; {_CURES[found[0]]}'
        )


def _recognise(root: Path) -> list[str]:
    known = {
        'BigEarthNet v1': ('BigEarthNet-v1.0', 'BigEarthNet-S1-v1.0'),
        'BigEarthNet v2': ('metadata.parquet',),
        'BigEarthNet in LMDB (data.mdb)': ('data.mdb', '*/data.mdb'),
        'SSL4EO-S12 v1.0 (GeoTIFFs)': ('s1/[0-9]*/*', 's2c/[0-9]*/*', 's2a/[0-9]*/*'),
        # <split>/<modality>/<file>
        'SSL4EO-S12 v1.1 (.zarr.zip)': ('*.zarr.zip', '*/*.zarr.zip', '*/*/*.zarr.zip'),
    }
    return [
        name
        for name, patterns in known.items()
        if any(next(root.glob(pattern), None) for pattern in patterns)
    ]
