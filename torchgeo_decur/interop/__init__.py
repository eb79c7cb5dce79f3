"""Adapters for other packages, which this package does not require.

``torchgeo_decur.interop.terratorch`` provides encoders as a backbone of TerraTorch,
``torchgeo_decur.interop.torchgeo_bench`` as a model of torchgeo-bench. Import each adapter
by its full name.
"""

__all__: list[str] = []
