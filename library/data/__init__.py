"""From folders of pictures and captions to batches of latents and text states, each computed once."""
