"""Errors for people, each in one line: fact; consequence; what to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions


class Problem(Exception):
    """An error that people see as one line. `code` is the exit code of the task."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


NO_DOCKER_COMMAND = "Docker's command is not installed; run `bin/invoke engine.up`"
ENGINE_AWAY = "no Docker engine answers at {where}; run `bin/invoke engine.up`, or `bin/invoke engine.doctor` for why"


@contextmanager
def docker_errors_as_problems(where: str) -> Iterator[None]:
    """Turn errors of the Docker SDK into a `Problem`. `where` is the engine's address."""
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise Problem(f"the engine has no such image: {error.explanation}") from error
    except docker.errors.APIError as error:
        raise Problem(f"the Docker engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.ConnectionError) as error:
        raise Problem(ENGINE_AWAY.format(where=where)) from error
    except requests.exceptions.Timeout as error:
        raise Problem(f"the Docker engine at {where} did not answer in time; is it overloaded?") from error
