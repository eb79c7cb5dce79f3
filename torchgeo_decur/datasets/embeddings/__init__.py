"""Read embeddings of frozen models from files and pair them by a key."""
