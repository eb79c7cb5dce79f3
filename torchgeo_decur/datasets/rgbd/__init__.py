"""Indoor photographs with depth maps."""
