"""Clicks, boxes and drafts, answered slice by slice and followed through a volume."""
