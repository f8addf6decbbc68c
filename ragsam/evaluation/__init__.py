"""Label volumes scored against references, and evaluations compared."""
