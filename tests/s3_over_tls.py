"""An emulated S3 over TLS, for programs that speak nothing else. Run, it serves; imported, it starts itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

#: The name in its certificate.
HOST = "localhost"
REGION = "us-east-1"


@dataclass(frozen=True)
class TlsS3:
    """Where it answers, and the certificate it shows."""

    port: int
    certificate: Path

    def client(self):  # type: ignore[no-untyped-def]
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"https://{HOST}:{self.port}",
            verify=str(self.certificate),
            aws_access_key_id="access-key-id",
            aws_secret_access_key="the-secret-access-key",
            region_name=REGION,
        )


@contextmanager
def serving(folder: Path, port: int) -> Iterator[TlsS3]:
    """Serve until left. The certificate lies in the folder."""
    certificate, key = _certificate(folder)
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, __file__, str(port), certificate, key], stdout=log, stderr=log)
    try:
        answer = TlsS3(port, certificate)
        _wait(answer, server, folder / "s3.log")
        yield answer
    finally:
        server.kill()
        server.wait()


def _wait(one: TlsS3, server: subprocess.Popen[bytes], log: Path) -> None:
    from botocore.exceptions import EndpointConnectionError

    deadline = time.monotonic() + 90
    while True:
        try:
            one.client().list_buckets()
        except EndpointConnectionError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "s3.pem", folder / "s3.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def main() -> None:
    import uvicorn
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from uvicorn.middleware.wsgi import WSGIMiddleware

    port, certificate, key = sys.argv[1:]
    # moto's own server speaks HTTP/1.0, and ends TLS without saying so.
    uvicorn.run(
        WSGIMiddleware(DomainDispatcherApplication(create_backend_app)),
        host="127.0.0.1",
        port=int(port),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
