"""Published weights, files of encoders, and what they say of an encoder."""
