"""Transforms: volume to slice and back."""

from ragsam.transforms.chains import augmentation, postprocessing, preprocessing

__all__ = ["augmentation", "postprocessing", "preprocessing"]
