"""What bash, zsh and fish offer for tasks and agents. It needs no image; here, missing programs are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.completion import AGENTS, ENGINE, run, with_docker
from tests.support.second_engine import install

pytestmark = pytest.mark.variant("prod")  # it is the same for both

BASH = """
source bin/completion/bash
COMP_LINE=$1 COMP_POINT=${#1}
complete -p invoke | grep -q _magents_invoke && _magents_invoke
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
autoload -U compinit && compinit -D -u
source bin/completion/zsh
words=(${(s: :)1}) PREFIX=
[[ $1 == *' ' ]] && words+=('') || PREFIX=$words[-1]
CURRENT=$#words
compadd() { print -l -- $names }
_files() { }
[[ $_comps[invoke] == _magents_invoke ]] && _magents_invoke
"""
FISH = "source bin/completion/fish; complete --do-complete $argv[1] | string replace -r '\\t.*' ''"
SHELLS = {
    "bash": ["bash", "--norc", "-c", BASH, "bash"],
    "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bin/invoke agents.logs --tail comp", ["compose.yaml"]),
        ("bin/invoke agents.wa", ["agents.wait"]),
        ("invoke agents.wait shop ", AGENTS),
        ("bin/invoke agents.logs --fo", ["--follow"]),
        ("bin/invoke agents.wait --until=f", ["--until=finished"]),
    ],
)
def test_shell_offers_the_same(tmp_path: Path, shell: str, line: str, expected: list[str]) -> None:
    install(shell)
    if expected == ["compose.yaml"] and shell != "fish":
        expected = []  # the shell itself offers files then
    if shell == "bash":  # it replaces what is behind the "=" alone
        expected = [word.partition("=")[2] or word for word in expected]
    path = with_docker(tmp_path / "path", ENGINE)
    assert run([*SHELLS[shell], line], path, HOME=str(tmp_path)) == expected
