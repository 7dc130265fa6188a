"""The networks, one a file; their registry, loading, inference and pixel conventions."""
