"""The on-disk formats, one per file, as docs/artifacts.md specifies them, and claims on outputs."""
