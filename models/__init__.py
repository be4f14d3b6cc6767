"""Backbones cut into stages, heads, losses, sharpness-aware minimisation and the training methods."""
