"""The clone's folder, the present folder, and replacing a file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def present_folder() -> Path | None:
    """Return the folder in which a person typed the command; None where it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def replace(path: Path, text: str) -> None:
    """Replace a whole file. Readers see the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)
