"""Networks: SAM and the few parameters that tune it."""

from ragsam.networks.segmenter import Segmenter
from ragsam.networks.supports import Supports

__all__ = ["Segmenter", "Supports"]
