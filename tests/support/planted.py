"""Files that an agent plants in a person's folder, and the person who then works there with the host's real tools.

Each plant is a command that leaves a marker of its own name in a folder that only the host has. So a marker says which
plant ran on the host.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.bootstrap import engine_setup
from tests.fidelity.sides import AS_OWNER, QUIET
from tests.support.bridge_host import OWNER, SECRET
from tests.support.npm_tools import installed as npm_tools

CACHE = Path(__file__).resolve().parents[2] / ".cache"

# What is planted


def script(run: str) -> str:
    return f"#!/bin/sh\n{run}\n"


@dataclass(frozen=True)
class Plant:
    """A file, and who runs it. `content` makes its text from the command that leaves the marker."""

    path: str
    content: Callable[[str], str] = script
    key: str = ""
    """Tells the plants of one file from one another."""
    runs: bool = True
    """A tool of the person's runs it. Of the others it only counts that they could not be planted."""

    @property
    def name(self) -> str:
        """The marker's name."""
        return f"{self.path} {self.key}".strip().replace("/", "%").replace(" ", "_").replace('"', "")


def _json(make: Callable[[str], object]) -> Callable[[str], str]:
    return lambda run: json.dumps(make(run), indent=1)


def _git(section: str, key: str, command: str = "{}; false", path: str = ".git/config") -> Plant:
    return Plant(path, lambda run: f'\n[{section}]\n\t{key} = "{command.format(run)}"\n', f"{section}.{key}")


_TASK = _json(lambda run: {"tasks": [{"type": "shell", "command": run, "runOptions": {"runOn": "folderOpen"}}]})
_SHELL = _json(lambda run: {"terminal.integrated.profiles.linux": {"bash": {"path": run}}, "git.path": run})
_HOOKS = _json(lambda run: {"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": run}]}]}})
_SERVERS = _json(lambda run: {"mcpServers": {"x": {"command": "/bin/sh", "args": ["-c", run]}}})
_DEV_CONTAINER = _json(lambda run: {"image": "x", "initializeCommand": run})
_COMPONENT = '<project version="4"><component name="x"><option value="{}" /></component></project>\n'.format

GIT_HOOKS = (
    "post-checkout pre-commit commit-msg prepare-commit-msg post-commit post-merge post-rewrite pre-push "
    "reference-transaction post-index-change pre-rebase pre-merge-commit"
)
PROTECTED = (
    *(Plant(f".git/hooks/{name}") for name in GIT_HOOKS.split()),
    *(Plant(f".git/hooks/{name}", runs=False) for name in ("applypatch-msg", "pre-auto-gc", "sendemail-validate")),
    _git("core", "fsmonitor"),
    _git("core", "pager", "{}; cat"),
    _git("core", "editor", "{}; true"),
    _git("core", "sshCommand"),
    _git("alias", "st", "!{}"),
    _git('filter "x"', "clean", "{}; cat"),
    Plant(".git/config", lambda _: "\n[include]\n\tpath = ../planted.ini\n", "include.path", runs=False),
    _git("diff", "external", path=".git/config.worktree"),
    Plant(".git/info/attributes", lambda run: f"# {run}\n* filter=x\n", runs=False),
    *(Plant(f".husky/{name}") for name in ("pre-commit", "commit-msg", "_/post-checkout")),
    *(Plant(f".git/{name}/origin", lambda run: f"URL: {run}\n", runs=False) for name in ("remotes", "branches")),
    Plant(".husky/_/h", lambda run: f'{script(run)}test ! -f "${{0%/_/*}}/${{0##*/}}" || . "${{0%/_/*}}/${{0##*/}}"\n'),
    *(Plant(f".husky/{name}", runs=False) for name in ("pre-push", "_/husky.sh")),
    Plant(".envrc"),
    Plant(".vscode/tasks.json", _TASK),
    *(Plant(f".vscode/{name}.json", _SHELL, runs=False) for name in ("settings", "launch", "extensions", "mcp", "c")),
    *(
        Plant(f".idea/{name}.xml", _COMPONENT, runs=False)
        for name in ("workspace", "watcherTasks", "tools/x", "runConfigurations/x")
    ),
    Plant(".devcontainer/devcontainer.json", _DEV_CONTAINER),
    Plant(".devcontainer/other/devcontainer.json", _DEV_CONTAINER, runs=False),
    Plant(".devcontainer/Dockerfile", runs=False),
    Plant(".devcontainer.json", _DEV_CONTAINER, runs=False),
    Plant(".claude/settings.json", _HOOKS),
    Plant(".claude/settings.local.json", _HOOKS),
    Plant(".mcp.json", _SERVERS),
)


# The person's project


@dataclass(frozen=True)
class Project:
    """A person's repository in a folder `shop`, beside the person's home and the folder of the markers."""

    directory: Path

    @property
    def folder(self) -> Path:
        return self.directory / "shop"

    @property
    def markers(self) -> Path:
        return self.directory / "markers"

    def run(self, name: str) -> str:
        """Return the command that leaves a marker on the host. In a container it does nothing."""
        return f"touch {self.markers / name}"

    @property
    def ran(self) -> set[str]:
        """Return the names of all markers."""
        return {path.name for path in self.markers.iterdir()}

    def holds(self, plant: Plant, writer: str) -> bool:
        """Say whether the plant of a writer is in its file."""
        path = self.folder / plant.path
        return path.is_file() and plant.content(self.run(f"{writer}-{plant.name}")).strip() in path.read_text()

    def act(self, commands: str, **env: str) -> str:
        """Run commands of the person's in the folder, on a terminal: git starts pagers and editors only there."""
        done = subprocess.run(
            ["script", "--quiet", "--return", "--command", f"bash -c {shlex.quote(commands)}", "/dev/null"],
            cwd=self.folder, env={**self._environment, **env}, user=OWNER, group=OWNER, extra_groups=[],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout

    def ask_claude(self, cli: Path, url: str, where: str = "") -> str:
        """Run the host's Claude Code in the folder, which the person trusts; return its output."""
        trusted = {str(path): {"hasTrustDialogAccepted": True} for path in (self.folder, self.folder / where)}
        (self.directory / "home/.claude.json").write_text(json.dumps({"projects": trusted}))
        program = self.directory / "claude"
        program.touch()
        words = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(cli), str(program)]  # its folder may be root's
        words += ["--die-with-parent", "--chdir", str(self.folder / where), "--", *AS_OWNER, str(program), "-p", "hi"]
        environment = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": SECRET, **QUIET, **self._environment}
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory / "home"), "TERM": "xterm", "PAGER": "cat"}


MAKE = """
set -e
git config --global user.name Person
git config --global user.email person@example.com
git config --global init.defaultBranch main
git config --global core.editor true
git config --global core.sshCommand false
git config --global protocol.file.allow always
git init --quiet --bare ../origin.git
git init --quiet ../lib
git -C ../lib commit --quiet --allow-empty --message lib
git init --quiet
git remote add origin ../origin.git
git remote add backup ssh://127.0.0.1:1/backup
git config extensions.worktreeConfig true
git config --worktree shop.here true
git config core.hooksPath .husky/_
git config include.path ../.gitconfig
git submodule --quiet add ../lib lib
git add .
git commit --quiet --message one
git push --quiet --set-upstream origin main
git branch other
git worktree add --quiet ../wt other
git checkout --quiet -b topic
git commit --quiet --allow-empty --message topic
git checkout --quiet main
echo more >> README
git commit --quiet --all --message two
"""
FILES = {
    "README": "shop\n",
    ".gitconfig": "",
    "check.sh": "#!/bin/sh\n",
    ".envrc": "export SHOP=1\n",
    ".husky/pre-commit": "sh check.sh\n",
    ".vscode/settings.json": "{}\n",
    "package.json": '{"name": "shop", "version": "1.0.0", "scripts": {"test": "true"}}\n',
    "Makefile": "all:\n",
}


def project(directory: Path) -> Project:
    """Make the project in an empty directory that everybody can enter."""
    made = Project(directory)
    for name in ("shop", "markers", "home/.config/direnv"):
        (directory / name).mkdir(parents=True)
    (directory / "home/.config/direnv/direnv.toml").write_text(f'[whitelist]\nprefix = ["{directory}"]\n')
    for name, content in FILES.items():
        path = made.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    shutil.copytree(npm_tools() / "node_modules/husky", directory / "husky")
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", str(directory)], check=True)
    made.markers.chmod(0o777)
    said = made.act(f"{MAKE}\nnode ../husky/bin.js")
    assert (made.folder / ".husky/_/h").exists(), said
    return made


# What the person does

WITH_HUSKY = """
git status
git diff HEAD~1
git log -2
git checkout --quiet topic
git checkout --quiet main
git commit --allow-empty
git st
git fetch backup
git submodule status
git -C lib commit --allow-empty --message lib
git -C ../wt status
eval "$(direnv export bash)"
"""
WITH_OWN_HOOKS = """
echo more >> README
git stash
git stash pop
git commit --all --message three
git commit --amend
git checkout --quiet topic
git checkout --quiet main
git merge --no-ff --no-edit topic
git rebase --quiet HEAD~1
git pull --no-rebase
git push --quiet
"""
OWN_HOOKS = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": ".git/hooks"}


def work(person: Project) -> str:
    """Do what people do in their project's folder; return all output."""
    said = person.act(WITH_HUSKY)
    said += person.act(WITH_OWN_HOOKS, **OWN_HOOKS)
    for command in opened_in_an_editor(person.folder):
        person.act(command)
    return said


def opened_in_an_editor(folder: Path) -> Iterator[str]:
    """Yield what VS Code would run by its schemas: tasks for when a folder opens, and a dev container's on the host."""
    tasks, container = folder / ".vscode/tasks.json", folder / ".devcontainer/devcontainer.json"
    if tasks.is_file():
        for task in json.loads(tasks.read_text()).get("tasks", []):
            if task.get("runOptions", {}).get("runOn") == "folderOpen":
                yield task["command"]
    if container.is_file():
        yield json.loads(container.read_text())["initializeCommand"]


# Ways around a protected path

TOOLS = """
export GIT_AUTHOR_NAME=agent GIT_AUTHOR_EMAIL=agent@example.com
export GIT_COMMITTER_NAME=agent GIT_COMMITTER_EMAIL=agent@example.com
hook() { printf '#!/bin/sh\\n%s\\n' "$RUN"; }
setting() { printf '\\n[core]\\n\\tfsmonitor = "%s; false"\\n' "$RUN"; }
exchange() { python3 -c 'import ctypes, sys
old, new = (name.encode() for name in sys.argv[1:])
sys.exit(ctypes.CDLL(None).renameat2(-100, old, -100, new, 2) != 0)' "$1" "$2"; }
nameless() { python3 -c 'import os, sys
here = os.open(".", os.O_PATH)
descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o755)
os.write(descriptor, sys.stdin.buffer.read())
os.link(f"/proc/self/fd/{descriptor}", sys.argv[1], src_dir_fd=here, follow_symlinks=True)' "$1"; }
"""
TRICKS = {
    "a link": "ln -s .git/config link; setting >> link",
    "a hard link": "ln .git/config hard; setting >> hard",
    "a hard link in the way": "hook > hook; ln -f hook .git/hooks/pre-commit",
    "another file in its place": "cp .git/config new; setting >> new; mv -f new .git/config",
    "removed and made anew": "rm -rf .husky; mkdir -p .husky/_; hook > .husky/_/pre-commit",
    "a parent renamed away": "mv .git gone; cp -r gone .git; hook > .git/hooks/pre-commit",
    "the folder renamed away": "mv .husky gone2; cp -r gone2 .husky; hook > .husky/pre-commit",
    "exchanged": "cp .git/config new; setting >> new; exchange new .git/config",
    "a folder exchanged": "cp -r .git/hooks new2; hook > new2/pre-commit; exchange new2 .git/hooks",
    "a parent exchanged": "cp -r .git new3; setting >> new3/config; exchange new3 .git",
    "a file without a name": "hook | nameless .git/hooks/pre-commit",
    "a link in its place": "cp -r .git/hooks new4; hook > new4/pre-commit; rm -rf .git/hooks; ln -s ../new4 .git/hooks",
    "through /proc/self/root": "hook > /proc/self/root/$PWD/.git/hooks/pre-commit",
    "through /proc/PID/cwd": "sleep 9 & hook > /proc/$!/cwd/.git/hooks/pre-commit; kill $!",
    "an open folder": "exec 9<.git/hooks; hook > /proc/self/fd/9/pre-commit",
    "mounts moved": "unshare -Urm sh -c 'umount .git/config; mount --move .git/hooks src'; setting >> .git/config",
    "git's own command": 'git config core.fsmonitor "$RUN; false"',
    "git's templates": "mkdir -p t/hooks; hook > t/hooks/pre-commit; chmod +x t/hooks/*; git init --template=t",
    "another common folder": "cp -r .git common; setting >> common/config; echo ../common > .git/commondir",
    "a file for the repository": "cp -r .git o.git; setting >> o.git/config; mv .git gone5; echo gitdir: o.git > .git",
    "a submodule's settings": "setting >> .git/modules/lib/config",
    "a submodule's hooks": "hook > .git/modules/lib/hooks/pre-commit",
    "a submodule's repository": "cp -r .git/modules/lib evil; sed -i /worktree/d evil/config; setting >> evil/config; "
    "echo gitdir: ../evil > lib/.git",
    "a worktree's common folder": "cp -r .git wide; setting >> wide/config; "
    "echo ../../../wide > .git/worktrees/wt/commondir",
    "a worktree's settings": "setting >> .git/worktrees/wt/config.worktree",
    "a file that settings include": "setting >> .gitconfig",
    "in tmux": "tmux send-keys -t agent \"printf '#!/bin/sh\\n%s' '$RUN' > .git/hooks/pre-commit\" Enter; sleep 1",
}
"""What a shell in the container tries. `hook` and `setting` print what runs, and `$RUN` is the command alone."""


def shell_script(person: Project, plants: Iterable[Plant], tricks: Mapping[str, str]) -> str:
    """Return a script for a shell in the container that plants files and tries tricks. None of them can end it."""
    lines = [TOOLS]
    for plant in plants:
        into = ">>" if plant.path == ".git/config" else ">"
        content = shlex.quote(plant.content(person.run(f"shell-{plant.name}")))
        lines.append(
            f"mkdir -p $(dirname {plant.path}); printf %s {content} {into} {plant.path}; chmod +x {plant.path}"
        )
    for name, trick in tricks.items():
        lines.append(f"(export RUN={shlex.quote(person.run(marker(name)))}; {trick})")
        lines.append("chmod -R u+x .git/hooks/ .git/modules/lib/hooks/ .husky/")
    return "\n".join(lines)


def marker(name: str) -> str:
    return name.replace(" ", "-").replace("/", "%").replace("'", "")


# What remains in direct mode


@dataclass(frozen=True)
class Remaining:
    """What an agent can still plant, what a person does that runs it, and the path that the audit names."""

    plant: str
    act: str
    path: str = ""
    first: str = ""
    """What the person has done before that."""


_REPOSITORY = 'git -C {0} commit --quiet --allow-empty -m x; git -C {0} config core.fsmonitor "$RUN; false"'
REMAINING = {
    "a rebase that has begun": Remaining(
        "printf 'break\\nexec %s\\n' \"$RUN\" > todo; GIT_SEQUENCE_EDITOR='cp todo' git rebase --interactive HEAD",
        "git stash --quiet; git rebase --continue",
        ".git/rebase-merge/git-rebase-todo",
    ),
    "a repository that is added to the project": Remaining(
        f"git init --quiet inner; {_REPOSITORY.format('inner')}; git add inner", "git status", "inner/.git/config"
    ),
    "a repository in the project": Remaining(
        f"git init --quiet own; {_REPOSITORY.format('own')}", "git -C own status", "own/.git/config"
    ),
    "a repository without .git": Remaining(
        'git init --quiet --bare store; git -C store config core.pager "$RUN; cat"',
        "git -C store config --list",
        "store/config",
    ),
    "a program that a hook of the person's calls": Remaining(
        "hook > check.sh", "git commit --quiet --allow-empty --message x"
    ),
    "a commit with other files than the folder": Remaining(
        "file=$(hook | git hash-object -w --stdin); GIT_INDEX_FILE=.git/other git read-tree HEAD; "
        "GIT_INDEX_FILE=.git/other git update-index --add --cacheinfo 100755,$file,.husky/post-checkout; "
        "git update-ref refs/heads/topic $(git commit-tree -m x -p topic $(GIT_INDEX_FILE=.git/other git write-tree))",
        "git checkout --quiet topic",
        ".husky/post-checkout",
    ),
    "an .envrc in a folder": Remaining(
        "mkdir -p web; hook > web/.envrc", "cd web && direnv export bash > /dev/null", "web/.envrc"
    ),
    "a Makefile": Remaining("printf 'x := $(shell %s)\\nall:\\n' \"$RUN\" > Makefile", "make -npq", "Makefile"),
    "scripts of packages": Remaining(
        'printf \'{"name": "shop", "scripts": {"preinstall": "%s"}}\' "$RUN" > package.json',
        "npm install --offline",
        "package.json",
    ),
    "an editor's workspace": Remaining(
        'printf \'{"tasks": {"tasks": [{"command": "%s"}]}}\' "$RUN" > shop.code-workspace', "", "shop.code-workspace"
    ),
    "CI": Remaining("mkdir -p .github/workflows; hook > .github/workflows/x.yml", "", ".github/workflows/x.yml"),
    "an instruction": Remaining("hook > CLAUDE.md", "", "CLAUDE.md"),
    "settings that the person has changed since": Remaining(
        "setting >> .git/config", "git status", ".git/config", first="git config shop.colour red"
    ),
    "a link in .git": Remaining(
        'at=${RUN#touch }; ln -sf "${at%/*/*}/home/.bashrc" .git/COMMIT_EDITMSG; echo "$RUN" > .git/MERGE_MSG',
        "git commit --allow-empty; rm .git/COMMIT_EDITMSG; bash -ic true",
        ".git/COMMIT_EDITMSG",
    ),
}


def have_direnv() -> None:
    """Install direnv where it is missing. Several test processes may ask at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "direnv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("direnv") is None:
            engine_setup.apt("update")
            engine_setup.apt("install", "-y", "--no-install-recommends", "direnv")
