"""Exports: an adapter as a folder that others load, written by a job on a worker."""
