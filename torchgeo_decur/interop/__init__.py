"""Adapters for other packages; import each adapter by its full name.

``torchgeo_decur.interop.terratorch`` provides encoders as a backbone of TerraTorch,
``torchgeo_decur.interop.torchgeo_bench`` as a model of torchgeo-bench. Each adapter
imports its package, which this package does not require.
"""

__all__: list[str] = []
