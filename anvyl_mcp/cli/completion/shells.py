"""`anvyl completion`: shell functions that call `anvyl __complete`."""

from __future__ import annotations

from typing import Annotated

import typer

BASH = r"""# anvyl completion for bash
_anvyl() {
    local line
    COMPREPLY=()
    # Words come quoted, and stay as they come: no splitting, no globbing.
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <("$1" __complete bash "$COMP_LINE" "$COMP_POINT" "$COMP_WORDBREAKS" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _anvyl anvyl
"""
ZSH = r"""#compdef anvyl
# anvyl completion for zsh
_anvyl() {
    local line value
    local -a plain shown open open_shown
    for line in "${(@f)$("${(Q)words[1]}" __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -z $line ]] && continue
        value=${line%%$'\t'*}
        if [[ $value == *= ]]; then
            open+=("$value"); open_shown+=("${line/$'\t'/  -- }")
        else
            plain+=("$value"); shown+=("${line/$'\t'/  -- }")
        fi
    done
    (( $#plain )) && compadd -V anvyl -l -d shown -- "${plain[@]}"
    (( $#open )) && compadd -V anvyl-open -S '' -l -d open_shown -- "${open[@]}"
    return 0
}
if [[ $funcstack[1] == _anvyl ]]; then _anvyl "$@"; else compdef _anvyl anvyl; fi
"""
FISH = r"""# anvyl completion for fish
function __anvyl_complete
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] __complete fish $words[2..-1] 2>/dev/null
end
complete -c anvyl -f -a '(__anvyl_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a completion script for your shell.

    bash: anvyl completion bash > ~/.local/share/bash-completion/completions/anvyl

    zsh: anvyl completion zsh > a file _anvyl in a folder of $fpath

    fish: anvyl completion fish > ~/.config/fish/completions/anvyl.fish
    """
    if shell not in SCRIPTS:
        raise typer.BadParameter(f"`{shell}` is not supported; choose bash, zsh or fish")
    from anvyl_mcp.cli.runtime import output

    output.print_verbatim(SCRIPTS[shell])
