"""Adapters for packages that this one does not need; each is imported by its full name.

``torchgeo_decur.interop.terratorch`` makes encoders a backbone of TerraTorch,
``torchgeo_decur.interop.torchgeo_bench`` makes them a model of torchgeo-bench. Either
imports the package that it is for.
"""

__all__: list[str] = []
