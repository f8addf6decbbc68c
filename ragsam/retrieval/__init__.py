"""Retrieval: a bank of labelled slices, searched for the nearest neighbours of every slice."""

from ragsam.retrieval.bank import Bank
from ragsam.retrieval.retriever import Retriever

__all__ = ["Bank", "Retriever"]
