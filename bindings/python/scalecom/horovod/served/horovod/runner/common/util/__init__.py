"""Served by scalecom."""
