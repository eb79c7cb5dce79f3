"""Built-in scenes of simulated sensors."""
