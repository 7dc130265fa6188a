"""The stages sweep, compare, bench and info."""
