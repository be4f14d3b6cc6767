"""Distillation losses: what a student is taught of a teacher's maps, embeddings and logits, each in one module."""
