"""What MONAI Label's server gets beyond its own."""
