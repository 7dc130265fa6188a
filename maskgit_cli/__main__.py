"""``python -m maskgit_cli``, which is what ``accelerate launch -m maskgit_cli`` runs."""

from maskgit_cli.cli import main

main()
