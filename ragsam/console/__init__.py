"""What is shown while work continues, and what it takes of time and memory."""
