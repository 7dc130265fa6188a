"""Published weights in and out: the stages import, export and pull."""
