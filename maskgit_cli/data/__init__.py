"""Image sources, decoding, views and class names; the stages tokenize and decode."""
