"""Configs for other packages, in a package because Hydra requires one."""
