"""Volumes read: NIfTI, ITK's formats, DICOM."""
