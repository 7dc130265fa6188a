"""Reconstruction quality of a tokenizer on a folder of images: PSNR, codebook usage, perplexity.

python examples/reconstruction.py builtin emoji64/val
"""

import json
import sys
from pathlib import Path

from maskgit_cli import load_tokenizer
from maskgit_cli.data.sources import open_source
from maskgit_cli.training.reconstruction import reconstruction_quality

tokenizer = load_tokenizer(Path(sys.argv[1]))
print(json.dumps(reconstruction_quality(tokenizer.network, open_source(Path(sys.argv[2])))))
