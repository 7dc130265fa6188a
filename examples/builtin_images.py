"""Choose the built-in images: 33 of each class, evenly spaced in order of name, in one zip.

python examples/builtin_images.py emoji64/train maskgit_cli/assets/images.zip
"""

import sys
import zipfile
from pathlib import Path

PER_CLASS = 33
CREDITS = """\
These images are emoji of 64x64 pixels on white, rendered from vectors. A file's name begins with its set:
  noto, noto-v1   Noto Emoji, Copyright Google LLC, Apache License 2.0
                  https://github.com/googlefonts/noto-emoji
  twemoji         Twemoji, Copyright Twitter, Inc and other contributors, CC-BY 4.0
                  https://creativecommons.org/licenses/by/4.0/
  fluent-emoji    Fluent Emoji, Copyright Microsoft Corporation, MIT License
                  https://github.com/microsoft/fluentui-emoji
"""


def main(source: Path, out: Path) -> None:
    with zipfile.ZipFile(out, "w") as archive:

        def add(name: str, data: bytes) -> None:
            # A fixed date, so that the same images give the same bytes. PNGs are compressed already.
            archive.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data)

        add("CREDITS.txt", CREDITS.encode())
        for folder in sorted(p for p in source.iterdir() if p.is_dir()):
            files = sorted(folder.glob("*.png"))
            for i in range(PER_CLASS):
                file = files[i * len(files) // PER_CLASS]
                add(f"{folder.name}/{file.name}", file.read_bytes())


main(Path(sys.argv[1]), Path(sys.argv[2]))
