"""`vlm completion`: complete commands, options, parts and configurations in a shell."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vlm.cli.check import INDEX
from vlm.cli.command_parser import command_parser
from vlm.cli.configs import TAKES_CONFIG
from vlm.core.bundled import bundled_models, configs_folder

EXAMPLES = """\
examples:
  vlm completion bash > ~/.local/share/bash-completion/completions/vlm
  vlm completion zsh > ~/.vlm_completion.zsh   # and in ~/.zshrc: source ~/.vlm_completion.zsh

Then open a new shell. The script holds all names, so that completing starts no Python; write it
again after an update of vlm.
"""
# An option's value stands after a = of its own in bash, which divides words there, not in zsh.
SCRIPT = """\
_vlm() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local option= words= prefix= name=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
    return
  fi
  if [ "$current" = "=" ]; then option=$before current=
  elif [ "$before" = "=" ]; then option=${{COMP_WORDS[COMP_CWORD-2]}}
  elif [ "$before" = "-c" ] || [ "$before" = "--config" ]; then option=-c
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case ${{COMP_WORDS[1]}} in {takes_config}) option=-c ;; {takes_model}) option=model ;; esac
  fi
  case $current in
    --*=*) option=${{current%%=*}} prefix=${{current%%=*}}= current=${{current#*=}} ;;
    -*) option= ;;
  esac
  case $option in
    "") case ${{COMP_WORDS[1]}} in
{options}
      esac ;;
    -c|--config) words="{configs}" ;;
    model) words="{models}" ;;
{parts}
  esac
  case $option$current in
    ""|model) COMPREPLY=() ;;
    *) COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$current")) ;;
  esac
  # By itself, bash adds files only where nothing else is offered.
  if [ "$option" = model ] && [ -n "$current" ]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -f -- "$current")
  fi
  case ${{COMPREPLY[0]}} in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -F _vlm vlm
"""
OF_RUNS = {"calibrate", "forgetting"}
"""Commands that take a run and no other model."""
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def completion(arguments: Sequence[str]) -> None:
    """Print the script of a shell."""
    parser = command_parser(
        "completion", "Print a script that completes `vlm` in a shell.", EXAMPLES
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    given = parser.parse_args(arguments)
    print((ZSH if given.shell == "zsh" else "") + script(), end="")


def script() -> str:
    """The script, from the index of options."""
    from vlm.cli.main import COMMANDS

    index = json.loads(INDEX.read_text(encoding="utf-8"))
    of_data = index["dataset"]
    options = {name: [*own, "--help"] for name, own in index["commands"].items()}
    for command, own in index["further"].items():
        names = [f"--{name}=" for name in (*index["options"], *own, *of_data) if name != "help"]
        options[command] = ["-c", "--help", "--help-all", *names]
    folder = configs_folder()
    configs = [
        str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.yaml"))
    ]
    return SCRIPT.format(
        commands=" ".join(COMMANDS),
        takes_config="|".join(TAKES_CONFIG),
        takes_model="|".join(
            name
            for name, row in COMMANDS.items()
            if row.example.startswith(f"vlm {name} RUN") and name not in OF_RUNS
        ),
        models=" ".join(bundled_models()),
        options="\n".join(
            f'      {command}) words="{" ".join(dict.fromkeys(names))}" ;;'
            for command, names in options.items()
        ),
        configs=" ".join(configs),
        parts="\n".join(
            f'    --{name}) words="{" ".join(_with_short(index["classes"][base]))}" ;;'
            for name, base in index["parts"].items()
        ),
    )


def _with_short(classes: Sequence[str]) -> list[str]:
    """The classes, and their names without the module."""
    return [*classes, *(name.rpartition(".")[2] for name in classes)]
