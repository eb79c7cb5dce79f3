"""Result tables, figures and benchmarks for torchgeo-decur."""
