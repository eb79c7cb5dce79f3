"""Models of torchgeo-decur."""
