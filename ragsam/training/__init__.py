"""Training: the Ignite parts that bundle configs name."""
