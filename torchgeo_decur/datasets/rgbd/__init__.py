"""Indoor images of color and depth."""
