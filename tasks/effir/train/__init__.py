"""Contrastive fine-tuning: examples, losses, the loop and its checkpoints."""
