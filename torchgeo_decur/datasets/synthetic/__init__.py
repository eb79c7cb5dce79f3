"""Built-in scenes: landscapes seen by simulated sensors."""
