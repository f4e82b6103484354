"""The certificates that programs in the container trust: the system's, and those of the host where it has its own.

A proxy that re-signs TLS needs certificates that no system has. compose.yaml mounts the host's file of them at `HOST`
and names the files here in SSL_CERT_FILE and the like. For most programs such a file replaces the system's
certificates, so `TRUSTED` holds both. Node has certificates of its own and reads the file at each start, so `ADDED`
holds only what the system lacks. The variables are the container's, so that `docker exec` has them too.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from agent.files import open_plain, replace
from agent.volumes import mount_table
from healthcheck.facts import Certificates

if TYPE_CHECKING:
    from agent.files import Report

HOST = Path("/etc/ssl/host.pem")
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")
TRUSTED = Path("/agent/run/ca-certificates.crt")
ADDED = Path("/agent/run/host-certificates.crt")

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
LONGEST = 16 << 20
"""In bytes. All public authorities together have 0.2 MB."""

ONE_AT_A_TIME = threading.Lock()
"""The start and the health check both renew the file."""

AGAIN = "run `bin/invoke up`, or restart the container"


def renew(report: Report) -> Certificates:
    """Bring both files up to date, where the host's is mounted. Returns what the host adds, or what is wrong."""
    with ONE_AT_A_TIME:
        try:
            with HOST.open("rb") as file:
                content = file.read(LONGEST)
        except FileNotFoundError:
            return Certificates()
        except IsADirectoryError:
            content, problem = b"", "the host's file of certificates is a folder; name a file with AGENT_CA_BUNDLE"
        except OSError as error:
            content = b""
            problem = f"the host's certificates cannot be read: {error.strerror}; make that file readable for all"
        else:
            problem = _problem_with(content)
        system = certificates(SYSTEM.read_bytes()) if SYSTEM.is_file() else []
        added = [one for one in dict.fromkeys(certificates(content)) if one not in system]
        try:
            _write(TRUSTED, [*system, *added], report)
            _write(ADDED, added, report)
        except OSError as error:
            problem = problem or f"{error.filename} cannot be written: {error.strerror}; {AGAIN}"
        return Certificates(len(added), problem)


def _problem_with(content: bytes) -> str:
    if content and not certificates(content):  # it is empty where the host has none: /dev/null is mounted
        return "the host's file of certificates holds none in PEM form; name another with AGENT_CA_BUNDLE"
    if is_replaced(mount_table()):
        return f"the host's file of certificates was replaced since this container started; {AGAIN}"
    return ""


def certificates(pem: bytes) -> list[str]:
    """Return the certificates in a file. Anything else in it is left out."""
    pieces = pem.decode("latin-1").replace("\r\n", "\n").split(END)[:-1]
    return [BEGIN + piece.rpartition(BEGIN)[2] + END for piece in pieces if BEGIN in piece]


def is_replaced(table: str) -> bool:
    """Say whether the mounted file is no longer the one at the host's path. `table` is /proc/self/mountinfo."""
    mounts = (line.split(" ") for line in filter(None, table.split("\n")))
    return any(fields[4] == str(HOST) and fields[3].endswith("//deleted") for fields in mounts)


def _write(path: Path, found: list[str], report: Report) -> None:
    text = "".join(f"{one}\n" for one in found)
    try:
        fd = open_plain(path, os.O_RDONLY, report)
    except FileNotFoundError:
        pass
    else:
        with os.fdopen(fd, encoding="latin-1") as file:
            if file.read(len(text) + 1) == text:
                return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text, report)
