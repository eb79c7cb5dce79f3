"""Transfer tasks: classification, segmentation and regression."""
