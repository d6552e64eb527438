"""A node's service over TLS as a real process, and an application with a certificate of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.authority import Authority


@contextmanager
def served(home: Path, tls: Path, within: Sequence[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service, and its address; the application `shop` may read, write and erase.

    Args:
        home: Of the node.
        tls: Folder of all certificates, made here.
        within: What a command in the node's network begins with.
        log: Where its last words go.
    """
    authority = Authority("partner")
    server, shop = authority.issue("localhost"), authority.issue("shop")
    tls.mkdir()
    for file, content in {
        "server.pem": server.certificate,
        "server.key": server.key,
        "clients.pem": authority.pem,
        "authority.pem": authority.pem,
        "shop.pem": shop.certificate,
        "shop.key": shop.key,
    }.items():
        (tls / file).write_bytes(content)
    (home / "serving.toml").write_text('[clients.shop]\nroles = ["tags", "vectors", "write", "erase"]\n')
    code = "import sys; from silhouette_shared.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["profile", "serve", "--home", str(home), "--address", "localhost:0", "--tls", str(tls)]
    with subprocess.Popen([*within, sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            assert "and port" in said, said
            port = said.split("port ")[1].split()[0].rstrip(";")
            yield process, f"localhost:{port}"
        finally:
            process.terminate()
            process.wait(180)
            log.write_text(process.stderr.read())
