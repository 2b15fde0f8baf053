"""Scans in and out of files, exactly: NIfTI, DICOM series, NRRD, MetaImage and pictures.

Nothing here computes on images, and nothing imports torch but ``reader``, which serves MONAI; a file is whole or not
there at all.
"""
