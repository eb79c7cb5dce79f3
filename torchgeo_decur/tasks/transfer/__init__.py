"""Transfer: classification and segmentation with pretrained encoders."""
