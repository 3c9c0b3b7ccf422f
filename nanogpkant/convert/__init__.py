"""Weights from elsewhere into our models, and a plain model into a KAN with its function kept."""
