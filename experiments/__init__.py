"""Tables, figures and benchmarks of torchgeo-decur."""
