"""Reads files of kohya's sd-scripts."""
