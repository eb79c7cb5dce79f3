"""Images of shape, texture and color, drawn in pairs."""
