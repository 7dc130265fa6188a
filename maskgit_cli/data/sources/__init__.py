"""Image sources: what ``tokenize``, ``train-vqgan``, ``fid`` and ``compare`` read images from."""

from maskgit_cli.data.sources.base import ImageSource, Origin, source_digest
from maskgit_cli.data.sources.registry import open_source

__all__ = ["ImageSource", "Origin", "open_source", "source_digest"]

# Former names, for callers that are not adapted yet.
Source, list_images = ImageSource, open_source
