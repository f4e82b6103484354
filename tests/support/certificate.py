"""A certificate for a test server. Only clients that are given the file trust it."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def make(directory: Path, name: str = "IP:127.0.0.1") -> Path:
    """Make a file with key and certificate for a name (`IP:…` or `DNS:…`). The certificate is its own authority."""
    key, certificate, both = (directory / part for part in ("key.pem", "certificate.pem", "both.pem"))
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += [
        "-subj",
        "/CN=gateway",
        "-addext",
        f"subjectAltName={name}",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=20)
    both.write_text(key.read_text() + certificate.read_text())
    return both


def context(both: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with this certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(both)
    return made
