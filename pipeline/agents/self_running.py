"""Files that run by themselves on the machine of whoever works in their folder: which tool runs each.

One table, worst first; the first row with a file's name decides. A pattern without a slash matches a name in any
folder, as in .gitignore; one with a slash matches at the end of a path. Names are compared as file systems that ignore
case do, and as git compares `.git`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Test = Callable[[bytes], str | None]
"""What of a content runs, as a few words; empty where there is no more to say, None where nothing runs."""


def reason(path: str, content: bytes | None = b"") -> str | None:
    """Say in a few words who runs the file at `path` by itself; None where nobody does.

    `path` is relative to the workspace, with slashes. A content of None is one that cannot be read, and counts as the
    worst.
    """
    place = place_of(path)
    return place.row.words(content) if place else None


@dataclass(frozen=True)
class Row:
    """Files that one tool runs: the tool in plain words, the files' names, and what has to be in them.

    `patterns` stand between spaces: `*` is within one name, `**` goes through folders.
    """

    who: str
    patterns: str
    test: Test | None = None

    def words(self, content: bytes | None) -> str | None:
        """Say who runs a file of such a name and what of the content; None where nothing in it runs."""
        found = "" if content is None or self.test is None else self.test(content)
        return found if found is None else f"{self.who}: {found}" if found else self.who


@dataclass(frozen=True)
class Place:
    """The row that a path fits by name, and how many of the path's last folders it takes for that."""

    row: Row
    folders: int


def place_of(path: str) -> Place | None:
    """Return the first row that the path fits by name; None where there is none."""
    comparable = _comparable(path)
    *folders, name = comparable.split("/")
    if name.endswith(".sample"):  # as git's own hooks, which run under no name but theirs
        return None
    if name not in _NAMES and not _NAME_GLOBS.fullmatch(name) and _FOLDERS.isdisjoint(folders):
        return None
    found = ((row, regex.search(comparable)) for regex, row in _ROWS)
    return next((Place(row, match[0].strip("/").count("/")) for row, match in found if match), None)


# Names

_IGNORED = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""What HFS+ leaves out when it compares names."""


def _comparable(path: str) -> str:
    return "/".join(_comparable_name(name) for name in path.split("/"))


def _comparable_name(name: str) -> str:
    """Return a name in the one spelling that the patterns have. NTFS ignores dots and spaces at the end."""
    name = _IGNORED.sub("", name).casefold()
    name = name.split(":", 1)[0].rstrip(". ") or name
    return ".git" if name == "git~1" else name


def _as_regex(pattern: str) -> str:
    parts = {"**": ".*", "*": "[^/]*"}
    return "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*)", pattern))


# What of a content runs

_ENTRY = re.compile(
    rb"""[\s\xef\xbb\xbf]*+ (?:
        [#;][^\n]*+
      | \[ \s*+ (?P<section>[-.\w]++) (?: \s*+ "(?P<name>(?:\\.|[^"\\\n])*+)" )? \s*+ \]
      | (?P<key>[a-z][-a-z0-9]*+) [ \t]*+ (?: = (?P<value>(?:"(?:\\.|[^"\\])*+"|\\.|[^"\\\n\#;])*+) )? (?:[#;][^\n]*+)?
      | \Z )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_RUNS_IN_GIT = re.compile(
    r"""alias\..* | include\.path | includeif\..*
      | core\.(?:fsmonitor|hookspath|sshcommand|editor|pager|askpass|gitproxy|alternaterefscommand|worktree
               |attributesfile)
      | filter\..*\.(?:clean|smudge|process) | merge\..*\.driver | diff\..*\.(?:command|textconv) | diff\.external
      | (?:diff|merge)\.(?:gui)?tool | (?:difftool|mergetool|guitool|browser|man)\..*\.(?:cmd|path)
      | (?:tar|trailer|hook)\..*\.(?:command|cmd) | interactive\.difffilter | pager\..* | sequence\.editor
      | credential\.(?:.*\.)?helper | gpg\.(?:.*\.)?(?:program|defaultkeycommand)
      | remote\..*\.(?:uploadpack|receivepack|vcs|proxy) | (?:remote|submodule)\..*\.(?:push)?url=.*::.*
      | submodule\..*\.update="?!.* | uploadpack\.packobjectshook | protocol\.(?:.*\.)?allow
      | url\..*\.(?:push)?insteadof | init\.templatedir | lfs\.(?:customtransfer|extension)\..*
      | lfs\.standalonetransferagent | (?:web|help)\.browser | instaweb\..* | sendemail\..*(?:cmd|smtpserver)
      | imap\.tunnel | extensions\.worktreeconfig""",
    re.VERBOSE | re.DOTALL,
)


def git_entries(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keys, such as `core.editor`, and raw values of a git configuration.

    Raises a `ValueError` where git finds an error, too.
    """
    section, position = "", 0
    while position < len(content):
        entry = _ENTRY.match(content, position)
        if entry is None or entry.end() == position:
            raise ValueError(f"no configuration of git's at byte {position}")
        position = entry.end()
        if entry["section"] is not None:
            name = "" if entry["name"] is None else f".{_text(entry['name'])}"
            section = _text(entry["section"]).lower() + name
        elif entry["key"] is not None:
            yield f"{section}.{_text(entry['key']).lower()}", _text(entry["value"] or b"").replace("\\\n", "").strip()


def _git_config(content: bytes) -> str | None:
    """Name the keys of a git configuration that run programs or read other configurations."""
    found: dict[str, None] = {}
    try:
        for key, value in git_entries(content):
            if any(_RUNS_IN_GIT.fullmatch(text.lower()) for text in (key, f"{key}={value}")):
                found[key] = None
    except ValueError:
        return ", ".join(found)  # git stops here too, with an error; other readers may not
    return ", ".join(found) or None


def _bare_config(content: bytes) -> str | None:
    """The same for a file that only its folder can make git's."""
    return _git_config(content) or None


def _elsewhere(usual: bytes) -> Test:
    """Return a test for a file that leads to another folder than the usual one, which is the repository's own."""
    return lambda content: None if content.strip().rstrip(b"/") == usual else ""


def _attributes(content: bytes) -> str | None:
    found = sorted({_text(name) for name in re.findall(rb"\b(filter|diff|merge)=", content)})
    return ", ".join(found) or None


def _todo(content: bytes) -> str | None:
    return "" if re.search(rb"(?m)^\s*(?:x|exec)\s", content) else None


_NPM_RUNS = {
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
    "dependencies",
}


def _package(content: bytes) -> str | None:
    """Name the scripts of a package.json that run without being named, when packages are installed."""
    try:
        read = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(read, dict):
        return None
    scripts = read.get("scripts")
    names = sorted(_NPM_RUNS & scripts.keys()) if isinstance(scripts, dict) else []
    tools = sorted(
        {"husky", "simple-git-hooks", "gitHooks", "pre-commit", "workspaces", "packageManager"} & read.keys()
    )
    return ", ".join([*names, *tools]) or None


def _pyproject(content: bytes) -> str | None:
    """Name what of a pyproject.toml runs code of its own folder, when it is installed or by tools."""
    try:
        read = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        return ""
    system, tools = read.get("build-system"), read.get("tool")
    found = ["backend-path"] if isinstance(system, dict) and "backend-path" in system else []
    if isinstance(tools, dict):
        found += sorted({"poe", "taskipy", "pdm", "hatch", "pytest", "mypy", "pylint"} & tools.keys())
    return ", ".join(found) or None


_STEERING = re.compile(
    rb"(?mi)^\s*(?:export\s+)?(LD_\w+|DYLD_\w+|NODE_OPTIONS|NODE_PATH|PYTHON\w+|BASH_ENV|ENV|ZDOTDIR|PATH|GIT_\w+"
    rb"|PERL5\w+|RUBY\w+|JAVA_TOOL_OPTIONS|EDITOR|VISUAL|PAGER|LESSOPEN|PROMPT_COMMAND|SHELL)\s*="
)


def _dotenv(content: bytes) -> str | None:
    return ", ".join(sorted({_text(name) for name in _STEERING.findall(content)})) or None


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


# The table


GIT_HOOKS = (
    "applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg "
    "post-commit pre-rebase post-checkout post-merge pre-push pre-receive update proc-receive post-receive "
    "post-update reference-transaction push-to-checkout pre-auto-gc post-rewrite sendemail-validate "
    "fsmonitor-watchman post-index-change"
)
"""The names that git knows (githooks(5)), as in the folder `hooks` of a repository without `.git`."""

TABLE = (
    # git
    Row("git runs it as a hook", " ".join([".git/**hooks/*", *(f"hooks/{name}" for name in GIT_HOOKS.split())])),
    Row(
        "git runs what its configuration names",
        ".git/config .git/**config.worktree .git/modules/**/config .git/worktrees/*/config",
        _git_config,
    ),
    Row(
        "git takes the repository, with its hooks and configuration, from where it points",
        ".git/worktrees/*/commondir",
        _elsewhere(b"../.."),
    ),
    Row(
        "git takes the repository, with its hooks and configuration, from where it points",
        ".git commondir",
        _elsewhere(b"."),
    ),
    Row(
        "git runs its lines when the rebase continues",
        "git-rebase-todo git-rebase-todo.backup .git/rebase-merge/** .git/rebase-apply/**",
        _todo,
    ),
    Row(
        "git passes files through programs that its configuration names",
        ".git/**info/attributes .gitattributes",
        _attributes,
    ),
    Row("git runs what it names for a submodule", ".gitmodules", _git_config),
    Row("git pushes to the repository that it names, and runs its hooks", ".git/remotes/** .git/branches/**"),
    Row("git-lfs reads its settings, and sends files where they say", ".lfsconfig"),
    # tools that set hooks up
    Row("git runs it as a hook, through husky", ".husky/** .huskyrc* husky.config.*"),
    Row(
        "git runs what it names as hooks, through lefthook",
        "lefthook*.yml .lefthook* lefthook*.yaml lefthook*.toml lefthook*.json .lefthook/**",
    ),
    Row("git runs what it names as hooks, through pre-commit", ".pre-commit-config.y*ml .pre-commit-hooks.y*ml"),
    Row(
        "git runs what it names as hooks",
        ".githooks/** .git-hooks/** .overcommit.yml captainhook.json .lintstagedrc* lint-staged.config.* "
        "simple-git-hooks.*",
    ),
    # shells that enter the folder
    Row("direnv loads it when a shell enters the folder", ".envrc .direnv/** .direnvrc"),
    Row("mise runs it when a shell enters the folder", ".mise*.toml mise*.toml .mise/** .config/mise/**"),
    Row("mise and asdf choose programs by it when a shell enters the folder", ".tool-versions"),
    Row("a shell runs it when it enters the folder", ".autoenv* .env.leave .in .out"),
    Row("tools that load it, such as editors and Compose, start programs with its variables", ".env*", _dotenv),
    Row(
        "nix runs it when a shell enters the folder through direnv",
        "flake.nix shell.nix default.nix devenv.nix devenv.yaml .devbox/**",
    ),
    # editors that open the folder
    Row(
        "VS Code runs or starts what it names when the folder is opened",
        ".vscode/** *.code-workspace .vscode-server/**",
    ),
    Row("JetBrains' editors run what it names when the folder is opened", ".idea/** *.iml *.ipr .run/**"),
    Row(
        "an editor runs or starts what it names",
        ".zed/** .fleet/** .nova/** .sublime-project *.sublime-project *.sublime-workspace .theia/**",
    ),
    Row("Visual Studio runs what it names when the folder is opened", ".vs/**"),
    Row(
        "vim runs it when it is opened in the folder",
        ".vimrc _vimrc .exrc .gvimrc .nvimrc .lvimrc .nvim.lua .local.vim .vim/** .neoconf.json",
    ),
    Row("Emacs evaluates it when a file in the folder is opened", ".dir-locals*.el .emacs* .projectile"),
    Row("Eclipse runs its builders when the project is opened", ".project .externaltoolbuilders/**"),
    # dev containers and CI
    Row("a dev container runs its commands, some of them on the host", ".devcontainer/** .devcontainer*.json"),
    Row("Gitpod runs its tasks", ".gitpod.yml .gitpod.yaml"),
    Row(
        "CI runs it after a push, with the project's secrets",
        ".github/workflows/** .github/actions/** "
        ".gitlab-ci* .gitlab/** .circleci/** .woodpecker* .forgejo/** jenkinsfile* azure-pipelines* "
        ".gitea/** .travis.yml .drone* .buildkite/** bitbucket-pipelines.yml appveyor.yml .appveyor.yml .cirrus.* "
        ".teamcity/** cloudbuild.y*ml .semaphore/** .azuredevops/**",
    ),
    # agents of the host
    Row("Claude Code starts what it names: hooks, servers, helpers", ".claude/settings*.json .mcp.json"),
    Row("Claude Code runs or obeys it", ".claude/**"),
    Row(
        "an agent on the host starts what it names",
        ".github/copilot* .cursor/** .gemini/** .codex/** .windsurf/** .continue/** .roo/** .cline*/** .amazonq/** "
        ".aider* opencode.json* .opencode/** .kiro/** mcp.json .junie/** .augment/** .goose/**",
    ),
    Row(
        "agents on the host obey it",
        "claude.md claude.local.md agents.md agents.override.md gemini.md .cursorrules .windsurfrules .clinerules "
        ".roorules .goosehints",
    ),
    # installing packages
    Row("npm, pnpm and yarn run its scripts when packages are installed", "package.json", _package),
    Row("npm builds by it when packages are installed", "binding.gyp"),
    Row("npm and pnpm take settings from it, some of which name programs", ".npmrc"),
    Row("yarn runs what it names", ".yarnrc .yarnrc.yml .yarn/releases/** .yarn/plugins/** .pnp.*js"),
    Row("pnpm runs it when packages are installed", ".pnpmfile.* pnpmfile.*"),
    Row("bun runs what it names", "bunfig.toml"),
    Row("pip runs it when the project is installed", "setup.py"),
    Row("pip and Python's tools run what it names", "pyproject.toml", _pyproject),
    Row("Python runs it when it starts in the folder", "sitecustomize.py usercustomize.py *.pth"),
    Row("pytest runs it, also when an editor looks for tests", "conftest.py pytest.ini"),
    Row("Composer runs its scripts when packages are installed", "composer.json"),
    Row("Bundler and Ruby run it when packages are installed", "gemfile *.gemspec .bundle/** .pryrc .irbrc"),
    # building, also by an editor that opens the folder
    Row("Cargo runs it when the project is built or opened in an editor", "build.rs"),
    Row("Cargo runs programs that it names", ".cargo/config .cargo/config.toml rust-toolchain*"),
    Row(
        "Gradle runs it when the project is built or opened in an editor",
        "*.gradle *.gradle.kts gradlew* gradle/wrapper/** gradle.properties",
    ),
    Row("Maven runs it when the project is built or opened in an editor", ".mvn/** mvnw* pom.xml"),
    Row("sbt runs it when the project is built or opened in an editor", "build.sbt project/**.sbt .sbtopts"),
    Row("MSBuild runs it when the project is built or opened in an editor", "directory.build.* *.csproj *.sln"),
    Row("CMake runs it when the project is opened in an editor", "cmakelists.txt cmakepresets.json"),
    Row("make runs it, also when a shell completes its targets", "makefile gnumakefile bsdmakefile *.mk"),
    Row(
        "task runners run it, also when a shell completes their tasks",
        "rakefile* *.rake gulpfile.* gruntfile.* tasks.py fabfile.py noxfile.py tox.ini dodo.py",
    ),
    Row("task runners run it when asked", "justfile .justfile taskfile*.y*ml procfile*"),
    Row(
        "linters and bundlers run it, also inside of editors",
        ".eslintrc*js eslint.config.* .prettierrc*js prettier.config.* stylelint.config.* .rubocop.yml .pylintrc",
    ),
    # a person's own files, where the workspace is their home or a part of it
    Row(
        "shells run it when they start",
        ".bashrc .bash_* .profile .zsh* .zprofile .zlog* .kshrc .inputrc .config/fish/** .tmux.conf .screenrc",
    ),
    Row("git runs what its configuration names", ".gitconfig .config/git/config", _git_config),
    Row("ssh runs what it names, or lets others in by it", ".ssh/**"),
    Row(
        "debuggers and other tools run it when they start in the folder",
        ".gdbinit .lldbinit .pdbrc .rprofile .sqliterc .psqlrc .guile .ghci",
    ),
    Row("the desktop runs it", "*.desktop autorun.inf desktop.ini .config/autostart/** .xinitrc *.lnk"),
    Row("the system runs it at login", ".config/systemd/** library/launchagents/** .pam_environment"),
    # only when a person types it
    Row("Docker builds or runs it when asked", "dockerfile* *.dockerfile compose*.y*ml docker-compose*.y*ml"),
    Row("Vagrant and Tilt run it when asked", "vagrantfile tiltfile skaffold.yaml"),
    # a name that others have as well
    Row("git runs what its configuration names", "config config.worktree", _bare_config),
)

_PATTERNS = [pattern for row in TABLE for pattern in row.patterns.split()]
_NAMES = {pattern for pattern in _PATTERNS if "/" not in pattern and "*" not in pattern}
_NAME_GLOBS = re.compile("|".join(_as_regex(pattern) for pattern in _PATTERNS if "/" not in pattern and "*" in pattern))
_FOLDERS = {pattern.split("/")[0] for pattern in _PATTERNS if "/" in pattern}
"""Nearly every file has none of these names, and is done at once."""

_ROWS = [
    (re.compile(f"(?:^|/)(?:{'|'.join(map(_as_regex, row.patterns.split()))})\\Z", re.DOTALL), row) for row in TABLE
]
