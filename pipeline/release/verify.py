"""What a registry serves, asked over its HTTP API with Docker's own credentials.

Source: the OCI distribution specification, 1.1. A registry on this machine is spoken to without TLS, as Docker does.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import docker.auth
import docker.errors
import docker.utils
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from pipeline.errors import Problem

ANSWER_S = 30
RETRIES = 4
DOCKER_HUB = "registry-1.docker.io"
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index as served: its own digest and its content."""

    digest: str
    content: dict[str, Any]

    @property
    def config(self) -> str | None:
        """The digest of the image's configuration, which the engine calls the image's id; None for an index."""
        found = self.content.get("config", {}).get("digest")
        return str(found) if found else None

    @property
    def parts(self) -> set[str]:
        """The digests of the manifests that an index joins."""
        return {str(part["digest"]) for part in self.content.get("manifests", [])}


def fetch(reference: str) -> Manifest:
    """Ask the registry for what `reference` names (`HOST/PATH:TAG` or `HOST/PATH@DIGEST`)."""
    repository, version = docker.utils.parse_repository_tag(reference)
    try:
        name, path = docker.auth.resolve_repository_name(repository)
    except docker.errors.InvalidRepository as error:
        raise Problem(f"{reference} is no name of an image: {error}", 64) from error
    host = DOCKER_HUB if name == docker.auth.INDEX_NAME else name
    is_here = re.match(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$", host)
    url = f"{'http' if is_here else 'https'}://{host}/v2/{path}/manifests/{version or 'latest'}"
    try:
        with requests.Session() as session:
            session.trust_env = not is_here
            again = Retry(RETRIES, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
            session.mount(url, HTTPAdapter(max_retries=again))
            response = _get(session, url, _credentials(name))
        if response.status_code in (401, 403):
            raise Problem(f"registry {host} shows {reference} to nobody it does not know; run `docker login {name}`")
        if response.status_code != 200:
            raise Problem(f"registry {host} does not serve {reference}: HTTP {response.status_code}")
        return Manifest("sha256:" + hashlib.sha256(response.content).hexdigest(), response.json())
    except requests.exceptions.JSONDecodeError as error:
        raise Problem(f"what answers at {host} is no registry; is a proxy in between, is the name right?") from error
    except requests.exceptions.RequestException as error:
        raise Problem(f"registry {host} does not answer ({error}); is it up, and is the name right?") from error


def _credentials(name: str) -> dict[str, str]:
    try:
        found = docker.auth.load_config().resolve_authconfig(name) or {}
    except docker.errors.DockerException as error:
        raise Problem(f"Docker's credentials for {name} cannot be read ({error}); run `docker login {name}`") from error
    return {
        "username": found.get("username") or found.get("Username") or "",
        "password": found.get("password") or found.get("Password") or "",
        "identitytoken": found.get("identitytoken") or found.get("IdentityToken") or "",
    }


def _get(session: requests.Session, url: str, credentials: dict[str, str]) -> requests.Response:
    headers = {"Accept": ", ".join(MANIFESTS)}
    response = session.get(url, headers=headers, timeout=ANSWER_S)
    if response.status_code != 401:
        return response
    known = (credentials["username"], credentials["password"]) if credentials["username"] else None
    scheme, _, details = response.headers.get("WWW-Authenticate", "").partition(" ")
    if scheme.lower() != "bearer":
        return session.get(url, headers=headers, auth=known, timeout=ANSWER_S) if known else response
    asked = dict(re.findall(r'(\w+)="([^"]*)"', details))
    realm = asked.pop("realm", "")
    if credentials["identitytoken"]:  # what credential helpers of the big clouds keep
        asked |= {"grant_type": "refresh_token", "refresh_token": credentials["identitytoken"], "client_id": "magents"}
        granted = session.post(realm, data=asked, timeout=ANSWER_S)
    else:
        granted = session.get(realm, params=asked, auth=known, timeout=ANSWER_S)
    if granted.status_code != 200:
        return granted
    token = granted.json().get("token") or granted.json()["access_token"]
    return session.get(url, headers=headers | {"Authorization": f"Bearer {token}"}, timeout=ANSWER_S)
