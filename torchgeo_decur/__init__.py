"""torchgeo-decur."""
