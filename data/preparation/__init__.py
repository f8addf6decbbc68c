"""Raw data sets to datalists."""
