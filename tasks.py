"""What a person can do: `bin/invoke --list`. Glue only; the work is in pipeline/."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke import Collection, Context, Exit, Task, task

try:
    from rich.console import Console
    from rich.table import Table

    from pipeline import bridge
    from pipeline.agents import compose as agents
    from pipeline.agents import lifecycle
    from pipeline.agents import logs as container_logs
    from pipeline.bootstrap import doctor, engine, engine_setup
    from pipeline.build import image, source
    from pipeline.errors import Problem
    from pipeline.release import attest as signing
    from pipeline.release import difference, hub
    from pipeline.release import push as release
    from pipeline.release import sbom as bills
    from pipeline.release import tags as names
    from pipeline.reporting import say_on_stderr
except ModuleNotFoundError as error:
    raise Exit(
        f"this Python lacks {error.name}; run `bin/invoke` instead of `invoke`, "
        "or `pip install -r requirements/tests.txt`",
        1,
    ) from None

ROOT = Path(__file__).resolve().parent
EVERY_VARIANT = list(image.VARIANTS.values())
say = say_on_stderr

BUILD_HELP = {
    "no-cache": "build every step anew",
    "base-image": "build on this image instead of node:NN-slim",
    "node": "major version of Node.js: 20, 22 or 24",
    "platform": "linux/amd64 or linux/arm64; the machine's own when left out",
    "progress": "how buildx shows its progress: auto, tty, plain, quiet",
    "ca-bundle": "PEM file of extra certificates for the build, where a proxy re-signs TLS",
    "pull": "ask the registry again for the base",
}
UP_HELP = {
    "workspace": "folder that the agent works in; workspace/ beside compose.yaml when left out",
    "variant": "prod or dev",
    "chown": "give a workspace that belongs to root to uid 1000",
    "as-root": "run the agent as root on a workspace that belongs to root",
    **BUILD_HELP,
}


@contextmanager
def problems_as_exit() -> Iterator[None]:
    """Tell a `Problem` as Invoke tells an error: one line, and the code."""
    try:
        yield
    except Problem as problem:
        raise Exit(str(problem), problem.code) from problem
    except KeyboardInterrupt:
        raise Exit("interrupted", 130) from None


def _build(variants: list[image.Variant], **chosen: object) -> None:
    options = image.Options(**chosen)  # type: ignore[arg-type]  # Invoke made each of the type of its default
    with problems_as_exit(), engine.connected() as client:
        for variant in variants:
            identity = image.build(client, variant, options, say)
            print(f"{variant.reference} {identity}")


def _build_task(variants: list[image.Variant], name: str, text: str) -> Task[Callable[..., None]]:
    def run(
        _: Context,
        no_cache: bool = False,
        base_image: str | None = None,
        node: str = "20",
        platform: str | None = None,
        progress: str = "auto",
        ca_bundle: str | None = None,
        pull: bool = False,
    ) -> None:
        _build(
            variants,
            no_cache=no_cache,
            base_image=base_image,
            node=node,
            platform=platform,
            progress=progress,
            ca_bundle=ca_bundle,
            pull=pull,
        )

    run.__name__ = name
    run.__doc__ = text
    return Task(run, help=BUILD_HELP)


def _variant(name: str) -> image.Variant:
    if name not in image.VARIANTS:
        raise Exit(f"there is no variant {name}; use one of {', '.join(image.VARIANTS)}", 64)
    return image.VARIANTS[name]


def _folder(workspace: str) -> Path:
    """The folder that a person named, every link followed, unless an agent can have made one of them."""
    named = Path(workspace).expanduser()
    bridge.refuse_links_of_containers(named)
    return named.resolve()


@task(help=UP_HELP)
def up(
    _: Context,
    workspace: str | None = None,
    variant: str = "prod",
    chown: bool = False,
    as_root: bool = False,
    no_cache: bool = False,
    base_image: str | None = None,
    node: str = "20",
    platform: str | None = None,
    progress: str = "auto",
    ca_bundle: str | None = None,
    pull: bool = False,
) -> None:
    """Go from a bare machine to a healthy agent."""
    chosen = _variant(variant)
    options = image.Options(no_cache, base_image, node, platform, progress, ca_bundle, pull)
    with problems_as_exit():
        folder = _folder(workspace) if workspace else agents.default_workspace(ROOT)
        owner = agents.owner_of(folder, chown=chown, as_root=as_root)
        say(engine_setup.up(say))
        with engine.connected() as client:
            image.build(client, chosen, options, say)
            mount = bridge.for_agent(agents.DEFAULT_NAME, folder, say, str(owner.uid) if chown or as_root else None)
            running = agents.up(client, chosen, agents.DEFAULT_NAME, folder, owner, say, mount)
    health = f"http://127.0.0.1:{running.port}/health"
    table = Table.grid(padding=(0, 2))
    for row in (
        ("agent", f"{running.name} ({running.image}) is {running.status}"),
        ("workspace", f"{running.workspace} as uid {running.owner.uid}"),
        ("attach", "bin/invoke agents.attach   (leave with Ctrl-b d)"),
        ("health", health),
        ("stop", "bin/invoke agents.down"),
    ):
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


# Lifecycle


def _lifecycle_task(variant: image.Variant) -> Task[Callable[..., None]]:
    def run(_: Context) -> None:
        table = _table("step", "held", "seen", "seconds")
        with problems_as_exit(), engine.connected() as client:
            steps = []
            for step in lifecycle.act_out(client, variant, say):
                say(f"{step.name} ...")
                steps.append(step)
                table.add_row(
                    step.name, "[green]yes[/]" if step.held else "[red]NO[/]", step.seen, f"{step.took_s:.2f}"
                )
        _print(table)
        if not all(step.held for step in steps):
            raise Exit(f"{variant.reference} does not live as it should; the table says where", 1)

    run.__name__ = variant.name
    run.__doc__ = f"Start, stop, restart, kill and recover a live {variant.reference}."
    return Task(run)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _print(table: Table) -> None:
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


# Engine


@task(name="up")
def engine_up(_: Context) -> None:
    """Use the Docker engine that answers, or install and start one."""
    with problems_as_exit():
        print(engine_setup.up(say))


@task(name="down")
def engine_down(_: Context) -> None:
    """Stop the Docker engine that engine.up started."""
    with problems_as_exit():
        engine_setup.down(print)


@task(name="doctor")
def engine_doctor(_: Context) -> None:
    """Say what is there, what is missing, and what to type."""
    with problems_as_exit():
        findings = doctor.examine()
    table = _table("part", "state", "detail", "type this")
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    for finding in findings:
        colour = colours[finding.state]
        table.add_row(finding.what, f"[{colour}]{finding.state}[/]", finding.detail, finding.remedy)
    _print(table)
    if any(finding.state == "missing" for finding in findings):
        raise Exit(code=1)


# Release

REGISTRY_HELP = "registry and namespace, such as localhost:5000/team; Docker Hub's magents when left out"
VARIANT_HELP = "prod or dev; both when left out"
PARTS_HELP = "folder of the parts, which `push --part` wrote"


def _chosen(variant: str | None) -> list[image.Variant]:
    return [_variant(variant)] if variant else EVERY_VARIANT


def _publications_table(found: list[release.Publication]) -> None:
    table = _table("variant", "image", "name")
    for each in found:
        for reference in each.references:
            table.add_row(each.variant.name, each.image_id.removeprefix("sha256:")[:12], reference)
    _print(table)


@task(help={"newest": "print the newest release's tag, or the branch main where there is none"})
def version(_: Context, newest: bool = False) -> None:
    """Print the version of this source, which comes from git's tags."""
    if newest:
        released = [found for found in source.releases() if names.release(found)]
        print(f"v{released[-1]}" if released else "main")
    else:
        print(source.describe().version)


@task(help={"variant": VARIANT_HELP, "registry": REGISTRY_HELP, "dry-run": "print the names and change nothing"})
def tag(_: Context, variant: str | None = None, registry: str = release.NAMESPACE, dry_run: bool = False) -> None:
    """Give the built images their names for a release."""
    with problems_as_exit(), engine.connected() as client:
        found = release.publications(client, _chosen(variant), registry)
        if not dry_run:
            for each in found:
                release.tag(client, each)
        _publications_table(found)


@task(
    iterable=["untested"],
    help={
        "variant": VARIANT_HELP,
        "registry": REGISTRY_HELP,
        "dry-run": "print the names and change nothing",
        "untested": "push this variant although its image was not tested; may be repeated",
        "part": "push for this architecture alone, to be joined with others by `join`",
    },
)
def push(
    _: Context,
    untested: list[str],
    variant: str | None = None,
    registry: str = release.NAMESPACE,
    dry_run: bool = False,
    part: bool = False,
) -> None:
    """Push the images that were tested, and compare what the registry then serves."""
    with problems_as_exit(), engine.connected() as client:
        found = release.publications(client, _chosen(variant), registry)
        if dry_run:
            _publications_table(found)
            return
        release.require_tested(found, untested)
        for each in found:
            if part:
                made = release.push_part(client, each, say)
                print(f"{made.repository}@{made.digest}")
            else:
                served = release.push(client, each, say)
                for reference, manifest in zip(each.references, served, strict=True):
                    print(f"{reference} {manifest.digest}")


@task(
    iterable=["architecture"],
    help={"parts": PARTS_HELP, "architecture": "refuse to join without this one; may be repeated"},
)
def join(_: Context, architecture: list[str], parts: str = str(release.PARTS)) -> None:
    """Give the release's names to images that were pushed for each architecture."""
    with problems_as_exit():
        for reference, manifest in release.join(release.parts(Path(parts), architecture)).items():
            print(f"{reference} {manifest.digest}")


@task(help={"variant": VARIANT_HELP, "output": "folder of the files VARIANT-ARCHITECTURE.cdx.json"})
def sbom(_: Context, variant: str | None = None, output: str = str(release.PARTS.parent / "sbom")) -> None:
    """Write the bill of materials of the built images as CycloneDX."""
    with problems_as_exit(), engine.connected() as client:
        for one in _chosen(variant):
            image.require(client, one)
            architecture = client.images.get(one.reference).attrs["Architecture"]
            path = Path(output) / f"{one.name}-{architecture}.cdx.json"
            print(f"{path}: {bills.write(client, one.reference, path)} components")


@task(help={"old": "reference of an image on this engine", "new": "the image to compare it with"})
def diff(_: Context, old: str, new: str) -> None:
    """Show what changed between two images: packages and sizes."""
    with problems_as_exit(), engine.connected() as client:
        found = difference.compare(client, old, new)
    table = _table("package", "old", "new")
    for change in found.packages:
        table.add_row(f"{change.kind} {change.name}", change.old or "-", change.new or "-")
    _print(table)
    sizes = _table("layer", "old MB", "new MB", "change MB")
    rows = [*found.layers, ("whole image", *found.sizes)]
    for step, was, now in rows:
        sizes.add_row(step[:70], f"{was / 1e6:.1f}", f"{now / 1e6:.1f}", f"{(now - was) / 1e6:+.1f}")
    _print(sizes)


@task(help={"parts": PARTS_HELP, "bills": "folder of the bills of materials"})
def attest(_: Context, parts: str = str(release.PARTS), bills: str = str(release.PARTS.parent / "sbom")) -> None:
    """Sign what was pushed and attach its bills of materials, with cosign."""
    with problems_as_exit():
        signing.attest(release.parts(Path(parts)), Path(bills))


@task
def describe(_: Context) -> None:
    """Set Docker Hub's description to the README, as DOCKERHUB_USERNAME with DOCKERHUB_TOKEN."""
    with problems_as_exit():
        needed = ("DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN")
        lacking = [name for name in needed if not os.environ.get(name)]
        if lacking:
            raise Problem(f"{' and '.join(lacking)} must be set to change the description on Docker Hub", 64)
        user, token = (os.environ[name] for name in needed)
        hub.describe(image.REPOSITORY, user, token, ROOT / "README.md")


# Bridge


@task(name="up", help={"workspace": "make a grant for this folder, too", "name": "the grant's name"})
def bridge_up(
    _: Context, workspace: str | None = None, name: str = agents.DEFAULT_NAME, user: str | None = None
) -> None:
    """Serve this host's Claude Code to containers; print what to mount."""
    with problems_as_exit():
        print(bridge.up(say))
        if workspace:
            mount = bridge.grant(name, _folder(workspace), user)
            print(f"grant {name}: mount {mount} at /host, read-only; for compose.yaml, in .env:\nAGENT_BRIDGE={mount}")


@task(name="down")
def bridge_down(_: Context) -> None:
    """Stop the bridge's server; agents stay and go on without Claude."""
    with problems_as_exit():
        bridge.down(print)


@task(name="status")
def bridge_status(_: Context) -> None:
    """Show what the bridge's server runs, and what waits."""
    _end_with(bridge.status())


@task(name="doctor")
def bridge_doctor(_: Context) -> None:
    """Check everything that a call over the bridge needs."""
    _end_with(bridge.doctor())


def _end_with(code: int) -> None:
    if code:
        raise Exit(code=code)


# Agents

NAME_HELP = {"name": "which agent; the one that `up` starts when left out"}


@task
def ps(_: Context) -> None:
    """List the agents of this machine."""
    table = _table("agent", "state", "image", "user", "workspace", "health")
    with problems_as_exit(), engine.connected() as client:
        for container in agents.every(client):
            state = container.attrs["State"]
            health = state.get("Health", {}).get("Status", "")
            told = f"{state['Status']} ({health})" if health and state["Status"] == "running" else state["Status"]
            running = state["Status"] == "running"
            where = f"http://127.0.0.1:{agents.published_port(container)}/health" if running else ""
            labels = container.labels
            facts = (labels[agents.LABEL], told, container.attrs["Config"]["Image"])
            table.add_row(*facts, labels[f"{agents.LABEL}.user"], labels[f"{agents.LABEL}.workspace"], where)
    if not table.rows:
        print("no agents; run `bin/invoke up`")
        return
    _print(table)


@task(positional=["name"], help=NAME_HELP)
def attach(_: Context, name: str = agents.DEFAULT_NAME) -> None:
    """Attach to the agent's tmux session; leave it with Ctrl-b d."""
    with problems_as_exit():
        with engine.connected() as client:
            agents.require(client, name)
        if not sys.stdin.isatty():
            raise Problem("attaching needs a terminal; run it in one, or use agents.exec")
        agents.run_docker("exec", "-it", agents.container_name(name), "tmux", "attach", "-t", "agent")


@task(
    positional=["name"],
    help={**NAME_HELP, "follow": "go on as lines come", "tail": "how many of the last lines"},
)
def logs(_: Context, name: str = agents.DEFAULT_NAME, follow: bool = False, tail: str = "100") -> None:
    """Show what the agent's supervisor logged."""
    with problems_as_exit():
        with engine.connected() as client:
            agents.require(client, name)
        code = container_logs.show(agents.container_name(name), tail, follow=follow)
    _end_with(code)


@task(name="exec", positional=["command"], help={"command": "what to run, quoted as one word", **NAME_HELP})
def exec_(_: Context, command: str, name: str = agents.DEFAULT_NAME) -> None:
    """Run a command in the agent's container."""
    with problems_as_exit():
        with engine.connected() as client:
            agents.require(client, name)
        code = agents.exec_code(name, ["bash", "-c", command], terminal=sys.stdin.isatty() and sys.stdout.isatty())
    _end_with(code)


@task(positional=["name"], help={**NAME_HELP, "all": "every agent of this machine"})
def down(_: Context, name: str = agents.DEFAULT_NAME, all: bool = False) -> None:  # noqa: A002  # the flag is --all
    """Stop an agent gracefully and remove its container; volumes stay."""
    with problems_as_exit(), engine.connected() as client:
        names = [str(found.labels[agents.LABEL]) for found in agents.every(client)] if all else [name]
        agents.down(client, names, print)
        for one in names:
            bridge.revoke(one)


build = Collection("build")
build.add_task(_build_task(EVERY_VARIANT, "all", "Build both images."), default=True)
for _name, _one in image.VARIANTS.items():
    build.add_task(_build_task([_one], _name, f"Build {_one.reference}."))

lifecycles = Collection("lifecycle")
for _name, _one in image.VARIANTS.items():
    lifecycles.add_task(_lifecycle_task(_one), _name)

namespace = Collection(
    up,
    build,
    version,
    tag,
    push,
    join,
    sbom,
    diff,
    attest,
    describe,
    lifecycles,
    Collection("engine", engine_up, engine_down, engine_doctor),
    Collection("bridge", bridge_up, bridge_down, bridge_status, bridge_doctor),
    Collection("agents", ps, attach, logs, exec_, down),
)
