"""The on-disk formats. Nothing else in the package opens or writes them; docs/artifacts.md specifies them."""
