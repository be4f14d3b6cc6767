"""Manifests and job submission for Ray clusters."""
