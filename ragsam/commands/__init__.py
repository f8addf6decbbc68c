"""The commands, a file each: arguments and job."""
