"""The window: web pages around the trainer. It imports the library; the library never imports it."""
