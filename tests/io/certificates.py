"""Certificates for tests, of one authority, made by the openssl program: see `kinds` below."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from msgspec import Struct

_CONFIG = """
[ca]
default_ca = files
[files]
dir = {folder}
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[here]
subjectAltName = DNS:localhost
authorityKeyIdentifier = keyid
[elsewhere]
subjectAltName = DNS:elsewhere.example
authorityKeyIdentifier = keyid
"""


class Certificates(Struct, frozen=True):
    """The folder that holds them."""

    folder: Path

    def server(self, name: str) -> ssl.SSLContext:
        """A server with the certificate `good`, `elsewhere`, `expired` or `early`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / "server.key")
        return context

    def trust(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Let the context trust the authority that signed them all."""
        context.load_verify_locations(self.folder / "authority.pem")
        return context


def make_certificates(folder: Path) -> Certificates:
    (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder))
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("1000\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(
        folder,
        *("req", "-x509", *new_key, "-keyout", "authority.key", "-out", "authority.pem"),
        *("-subj", "/CN=test authority", "-extensions", "authority", "-days", "2"),
    )
    _openssl(
        folder,
        *("req", "-new", *new_key, "-keyout", "server.key", "-out", "server.csr"),
        *("-subj", "/CN=localhost"),
    )
    kinds = {
        "good": ("here", "20200101000000Z", "20991231000000Z"),
        "elsewhere": ("elsewhere", "20200101000000Z", "20991231000000Z"),
        "expired": ("here", "20200101000000Z", "20200102000000Z"),
        "early": ("here", "20990101000000Z", "20991231000000Z"),
    }
    for name, (place, start, end) in kinds.items():
        _openssl(
            folder,
            *("ca", "-batch", "-notext", "-in", "server.csr", "-out", f"{name}.pem"),
            *("-cert", "authority.pem", "-keyfile", "authority.key", "-extensions", place),
            *("-startdate", start, "-enddate", end),
        )
    return Certificates(folder)


def _openssl(folder: Path, command: str, *arguments: str) -> None:
    subprocess.run(
        ["openssl", command, "-config", "openssl.cnf", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )
