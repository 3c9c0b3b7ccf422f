"""Trained models for others: an exported folder, its model card, and the Hugging Face Hub."""
