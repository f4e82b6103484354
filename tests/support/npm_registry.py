"""A registry with Yarn 9.8.7 and pnpm 9.8.7, programs that print their name. Runs in a container, on its loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile

PORT = 4873
VERSION = "9.8.7"
PAGES: dict[str, bytes] = {}


class Answer(http.server.BaseHTTPRequestHandler):
    """Serves the pages."""

    def do_GET(self) -> None:
        """Answer with a page, or with 404."""
        page = PAGES.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(page or b"{}")


def publish(package: str, program: str) -> str:
    """Make the pages of one package. Returns the digest that `packageManager` can name."""
    code = f"console.log('other-{program}', ...process.argv.slice(2))".encode()
    about = {"name": package, "version": VERSION, "bin": {program: "bin/run.cjs"}}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, content in (("package.json", json.dumps(about).encode()), ("bin/run.cjs", code)):
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    body = data.getvalue()
    digest = base64.b64encode(hashlib.sha512(body).digest()).decode()
    dist = {"tarball": f"http://127.0.0.1:{PORT}/{program}.tgz", "integrity": f"sha512-{digest}"}
    told = {"name": package, "dist-tags": {"latest": VERSION}, "versions": {VERSION: {**about, "dist": dist}}}
    PAGES["/" + package.replace("/", "%2f")] = json.dumps(told).encode()
    PAGES[f"/{program}.tgz"] = body
    return hashlib.sha224(code if program == "yarn" else body).hexdigest()


if __name__ == "__main__":
    digests = {"yarn": publish("@yarnpkg/cli-dist", "yarn"), "pnpm": publish("pnpm", "pnpm")}
    PAGES["/digests"] = json.dumps(digests).encode()
    http.server.HTTPServer(("127.0.0.1", PORT), Answer).serve_forever()
