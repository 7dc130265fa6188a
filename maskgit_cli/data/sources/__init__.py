"""Image sources: what ``tokenize``, ``train-vqgan``, ``fid`` and ``compare`` read images from."""

from maskgit_cli.data.sources.base import ImageSource, Origin, source_digest
from maskgit_cli.data.sources.registry import is_source, open_source, recorded_images

__all__ = ["ImageSource", "Origin", "is_source", "open_source", "recorded_images", "source_digest"]
