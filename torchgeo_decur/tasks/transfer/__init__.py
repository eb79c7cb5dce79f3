"""Transfer: classification, segmentation and regression with pretrained encoders."""
