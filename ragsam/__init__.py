"""RAG-SAM: retrieval-steered Segment Anything for 3D medical volumes."""

__version__ = "0.1.0"
