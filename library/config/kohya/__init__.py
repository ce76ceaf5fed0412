"""Files of kohya's sd-scripts, read as they are."""
