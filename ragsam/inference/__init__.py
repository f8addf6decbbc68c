"""Volumes in, label volumes out: inferer, retrieval, test-time augmentation, ensemble, writers."""
