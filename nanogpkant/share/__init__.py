"""Trained models for others: exported folders, for transformers and ONNX too, and the Hub."""
