"""Embeddings of frozen models in files, paired by a key."""
