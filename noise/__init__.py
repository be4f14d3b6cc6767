"""Noise keyed to the image: corruptions for evaluation and samplers for training."""
