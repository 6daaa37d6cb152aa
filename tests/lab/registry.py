"""A real registry on a lab's bridge: TLS with a certificate of its own, and a password on the door."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = "robot$nx8"
LIMIT_S = 120.0


@dataclass(frozen=True)
class Registry:
    """`host` is its name in references: address and port."""

    host: str


def program(folder: Path) -> str | None:
    """docker-registry of this machine, else out of Debian's package; None when neither can be had."""
    found = shutil.which("docker-registry", path="/usr/bin:/usr/local/bin:/usr/sbin")
    if found:
        return found
    package = ("apt-get", "download", "docker-registry")
    done = subprocess.run(package, cwd=folder, capture_output=True, timeout=LIMIT_S)
    for deb in folder.glob("docker-registry_*.deb"):
        subprocess.run(("dpkg-deb", "-x", deb, folder), check=True, timeout=LIMIT_S)
        return str(folder / "usr" / "bin" / "docker-registry")
    return None if done.returncode else shutil.which("docker-registry")


@contextmanager
def running(bed: Any, folder: Path, password: str, *, in_ci: bool) -> Iterator[Registry]:
    """While open, every node of the lab trusts it, and lets in who knows the password."""
    registry = program(folder)
    if registry is None:
        why = "needs docker-registry: apt-get install docker-registry"
        pytest.fail(f"CI never skips the registry: {why}") if in_ci else pytest.skip(why)
    address = str(ipaddress.ip_network(bed.lab.subnet)[1])
    with socket.socket() as probe:
        probe.bind((address, 0))
        host = f"{address}:{probe.getsockname()[1]}"
    certify(folder, address)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {folder}/store}}}}\n"
        f"http: {{addr: '{host}', tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}}}\n"
        f"auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}\n"
    )
    trusted = [node.root / "etc/docker/certs.d" / host for node in bed.nodes]
    for place in trusted:
        place.mkdir(parents=True)
        shutil.copy(folder / "cert.pem", place / "ca.crt")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            (registry, "serve", folder / "config.yml"),
            stdout=log,
            stderr=log,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        await_answer(server, host, folder)
        yield Registry(host)
    finally:
        server.terminate()
        server.wait(LIMIT_S)
        for place in trusted:
            shutil.rmtree(place)


def certify(folder: Path, address: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def await_answer(server: subprocess.Popen[bytes], host: str, folder: Path) -> None:
    address, _, port = host.partition(":")
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            with socket.create_connection((address, int(port)), 5) as plain:
                context.wrap_socket(plain, server_hostname=address).close()
            return
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)


def pushed(bed: Any, node: Any, registry: Registry, password: str, tag: str, name: str) -> str:
    """Puts an image of a node into the registry, as a person would; returns its reference with its digest."""
    reference = f"{registry.host}/{name}:test"
    script = (
        "set -e; export DOCKER_CONFIG=$(mktemp -d); trap 'rm -r $DOCKER_CONFIG' EXIT;"
        f" docker login --username='{USER}' --password-stdin {registry.host} >/dev/null 2>&1;"
        f" docker tag {tag} {reference}; docker push --quiet {reference} >/dev/null;"
        " docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}'"
        f" {reference};"
        f" docker image rm {reference} >/dev/null"
    )
    said = bed.on(node, script, stdin=password.encode())
    return next(line for line in said.split() if line.startswith(registry.host))
