"""Every setting, default, size, preset and catalogue entry, once. Nothing here imports torch."""
