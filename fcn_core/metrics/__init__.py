"""Scores of a segmentation. All that is added up over images and workers is an integer, so that sums are exact."""
