"""Configs of other packages; Hydra looks for files in a package only."""
