"""The on-disk formats, one a file; docs/artifacts.md specifies them. Nothing here knows a network."""
