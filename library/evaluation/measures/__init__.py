"""Measures over pictures and numbers."""
