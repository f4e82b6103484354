"""Set the repository's description on Docker Hub to the README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import requests

from pipeline.errors import Problem

USER, TOKEN = "DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN"
API = "https://hub.docker.com/v2"
ANSWER_S = 30
MOST_BYTES = 25_000
"""Docker Hub's own limit."""
SHORT = "Docker images in which AI coding agents live"


def credentials(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return user and token from the environment. Raises a `Problem` that names what is not set."""
    lacking = [name for name in (USER, TOKEN) if not environment.get(name)]
    if lacking:
        raise Problem(f"{' and '.join(lacking)} must be set to change the description on Docker Hub", 64)
    return environment[USER], environment[TOKEN]


def describe(repository: str, user: str, token: str, readme: Path, api: str = API) -> None:
    """Set the short and the full description of `repository` (`magents/agent`)."""
    text = readme.read_text()
    if len(text.encode()) > MOST_BYTES:
        raise Problem(f"{readme.name} is longer than the {MOST_BYTES} bytes that Docker Hub takes; shorten it")
    try:
        login = requests.post(f"{api}/auth/token", json={"identifier": user, "secret": token}, timeout=ANSWER_S)
        if login.status_code != 200:
            raise Problem(f"Docker Hub refuses user {user} (HTTP {login.status_code}); check the token")
        done = requests.patch(
            f"{api}/repositories/{repository}/",
            json={"description": SHORT, "full_description": text},
            headers={"Authorization": f"Bearer {login.json()['access_token']}"},
            timeout=ANSWER_S,
        )
    except requests.exceptions.RequestException as error:
        raise Problem(f"Docker Hub does not answer ({error}); the description stays as it was") from error
    if done.status_code != 200:
        raise Problem(f"Docker Hub does not take the description (HTTP {done.status_code}); may {user} change it?")
