"""From label volumes to metrics, tables and a page a clinician can read."""
