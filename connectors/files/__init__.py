"""Recordings on disk in, sensor chunks out: one reader per format."""
