"""Structures: readers, stores, batches, data module."""
