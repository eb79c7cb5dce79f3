"""Adapters for optional third-party packages.

``torchgeo_decur.interop.terratorch`` provides the encoders as a TerraTorch backbone,
and ``torchgeo_decur.interop.torchgeo_bench`` as a torchgeo-bench model. Import each
adapter by its full name.
"""

__all__: list[str] = []
