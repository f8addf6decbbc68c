"""What is shown while work goes on, and what it takes of time and memory."""
