"""Shell completion: click's own scripts, printed or written to the place where each shell looks."""

from __future__ import annotations

import os
from pathlib import Path

import rich_click as click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "maskgit", "_MASKGIT_COMPLETE"


def users_shell(name: str) -> str:
    """The shell of this name, or for ``auto`` the one that ``$SHELL`` names."""
    found = Path(os.environ.get("SHELL", "")).name if name == "auto" else name
    if found not in SHELLS:
        raise click.UsageError(f"the shell is unknown ($SHELL is {found!r}): name {', '.join(SHELLS)}")
    return found


def script(group: click.Group, shell: str) -> str:
    """The completion script that click makes for a shell."""
    kind = get_completion_class(users_shell(shell))
    assert kind is not None
    return kind(group, {}, PROGRAM, VARIABLE).source()


def _base(variable: str, default: str) -> Path:
    """A base directory of the XDG specification."""
    return Path(os.environ.get(variable) or Path.home() / default)


def place(shell: str) -> tuple[Path, str]:
    """Where a shell looks for the script, and what else it needs."""
    if shell == "fish":
        return _base("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / f"{PROGRAM}.fish", ""
    if shell == "zsh":
        path = Path.home() / ".zfunc" / f"_{PROGRAM}"
        return (
            path,
            "add to ~/.zshrc, unless it is there: fpath+=~/.zfunc; autoload -Uz compinit; compinit",
        )
    path = _base("XDG_DATA_HOME", ".local/share") / "bash-completion" / "completions" / PROGRAM
    return path, f"if the package bash-completion is not installed, add to ~/.bashrc: . {path}"


def install(group: click.Group, shell: str) -> tuple[Path, list[str]]:
    """Write the script to its place.

    Returns:
        Its path, and lines that say what was done and what to do next.
    """
    shell = users_shell(shell)
    text, (path, need) = script(group, shell), place(shell)
    if path.exists() and path.read_text() == text:
        return path, [f"completion for {shell} is installed already"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    lines = [f"installed completion for {shell}", need, f"start a new {shell} to use it"]
    return path, list(filter(None, lines))
