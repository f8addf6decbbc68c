"""Dataset cards: label names and numbers, window, official split and protocol of each known data set."""

from ragsam.data.cards.load import load_card

__all__ = ["load_card"]
