"""Pages and figures that a clinician can read."""
