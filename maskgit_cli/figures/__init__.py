"""Image grids, captioned sheets and animations."""
