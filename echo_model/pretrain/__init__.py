"""Unlabelled signals in, trained encoder weights out: masked self-supervised pre-training."""
