"""The samplers, one per file; ``registry`` finds the one that some settings are for."""
