"""A timestamp authority on loopback: OpenSSL's own `ts`, behind HTTP."""

from __future__ import annotations

import datetime
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_CONFIG = """
[tsa]
default_tsa = this
[this]
serial = {folder}/serial
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@dataclass
class TimestampAuthority:
    """``fails`` are the statuses of the next answers; ``replays`` is what is answered instead."""

    folder: Path
    fails: list[int] = field(default_factory=list)
    replays: bytes | None = None
    requests: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.root = _certificates(self.folder)
        (self.folder / "serial").write_text("01\n")
        (self.folder / "tsa.cnf").write_text(_CONFIG.format(folder=self.folder))
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                authority.requests += 1
                status = authority.fails.pop(0) if authority.fails else 200
                if self.headers["Content-Type"] != "application/timestamp-query":
                    status = 415
                data = authority.reply(body) if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/tsa"

    def reply(self, request: bytes) -> bytes:
        if self.replays is not None:
            return self.replays
        asked, told = self.folder / "request.tsq", self.folder / "response.tsr"
        asked.write_bytes(request)
        command = ["openssl", "ts", "-reply", "-config", str(self.folder / "tsa.cnf")]
        subprocess.run([*command, "-queryfile", str(asked), "-out", str(told)], check=True, capture_output=True)
        return told.read_bytes()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _certificates(folder: Path) -> bytes:
    """A root in PEM; beside it in the folder, the signer it vouches for."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"root of {folder.name}")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "timestamps")])
    root = (
        _certificate(root_name, root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.TIME_STAMPING])
    signer = _certificate(name, root_name, key).add_extension(usage, critical=True).sign(root_key, hashes.SHA256())
    (folder / "signer.pem").write_bytes(signer.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "signer.key").write_bytes(private)
    return root.public_bytes(serialization.Encoding.PEM)


def _certificate(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
