"""Models, folders and machines that tests share."""
