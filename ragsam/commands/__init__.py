"""The commands, a file each: arguments, one call of the Python API, and what is said of it."""
