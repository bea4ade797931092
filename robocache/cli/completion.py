"""``robocache completion``: a script with which a shell completes commands and their options."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from importlib import import_module

from robocache.cli import terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which; the script says where it goes")


def run(args: argparse.Namespace) -> bool:
    terminal.say(*{"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]())
    return True


def _commands() -> dict[str, tuple[str, list[tuple[list[str], str]]]]:
    """Of each command what it does, and its options with what they do."""
    from robocache import cli

    told = {}
    for name, help in cli.COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"robocache {name}")
        cli.add_levels(parser)
        import_module(f"robocache.cli.{name}").add_arguments(parser)
        told[name] = help, [(list(a.option_strings), _short(a.help)) for a in parser._actions if a.option_strings]
    return told


def _short(help: str | None) -> str:
    return (help or "").partition(";")[0].partition(" (")[0].replace("%%", "%")


def _bash() -> Iterator[str]:
    commands = _commands()
    yield '# bash: eval "$(robocache completion bash)", or into ~/.local/share/bash-completion/completions/robocache'
    yield "_robocache() {"
    yield "    local current=${COMP_WORDS[COMP_CWORD]} command= word words="
    yield '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield "        case $word in -*) ;; *) command=$word; break ;; esac"
    yield "    done"
    yield "    case $command in"
    yield f"        '') words={shlex.quote(' '.join([*commands, '--help', '--version']))} ;;"
    for name, (_, options) in commands.items():
        long = " ".join(o for names, _ in options for o in names if o.startswith("--"))
        yield f"        {name}) words={shlex.quote(long)} ;;"
    yield "    esac"
    yield "    COMPREPLY=()"
    yield '    if [[ -z $command || $current == -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$current")); fi'
    yield "}"
    yield "complete -o default -F _robocache robocache"


def _zsh() -> Iterator[str]:
    yield "#compdef robocache"
    yield "# zsh: put this as _robocache into a folder of $fpath, or: source <(robocache completion zsh)"
    yield "_robocache() {"
    yield "    local -a commands=("
    for name, (help, _) in _commands().items():
        yield f"        {shlex.quote(f'{name}:{help}'.replace(': ', ', '))}"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "    case $words[2] in"
    for name, (_, options) in _commands().items():
        told = [shlex.quote(f"{o}[{h.replace('[', '(').replace(']', ')')}]") for names, h in options for o in names]
        yield f"        {name}) _arguments {' '.join(told)} '*:file:_files' ;;"
    yield "    esac"
    yield "}"
    yield "compdef _robocache robocache"


def _fish() -> Iterator[str]:
    yield "# fish: robocache completion fish > ~/.config/fish/completions/robocache.fish"
    for name, (help, options) in _commands().items():
        yield f"complete -c robocache -n __fish_use_subcommand -f -a {name} -d {shlex.quote(help)}"
        for names, told in options:
            long = " ".join(f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}" for o in names)
            yield f"complete -c robocache -n '__fish_seen_subcommand_from {name}' {long} -d {shlex.quote(told)}"
