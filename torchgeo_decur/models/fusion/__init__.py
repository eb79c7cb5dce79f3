"""Fusion of several modalities: late, joint and cross-modal fusion."""
