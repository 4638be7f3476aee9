"""Key services on loopback for the clouds' own SDKs: Cloud KMS over gRPC, Key Vault over TLS.

What the SDKs send is parsed strictly: Google's own message types, and for Key Vault exactly the members of its
document. What the services *do* is this file's idea of the documentation; the cryptography is real.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import re
import ssl
import threading
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.cloud.kms_v1.types import service
from google_crc32c import value as crc32c

GCP_KEY = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"


class CloudKms:
    """Symmetric keys by resource name. ``fails`` lists what goes wrong at the next calls."""

    def __init__(self) -> None:
        self.versions: dict[str, list[bytes]] = {GCP_KEY: [os.urandom(32)]}
        self.calls: list[str] = []
        self.deadlines: list[float] = []
        self.fails: list[grpc.StatusCode] = []
        self.denied = False
        #: So many answers are changed on the way back, and requests on the way there.
        self.tampers_answers = 0
        self.tampers_requests = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        methods = {
            "Encrypt": (self._encrypt, service.EncryptRequest, service.EncryptResponse),
            "Decrypt": (self._decrypt, service.DecryptRequest, service.DecryptResponse),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name, act), request_deserializer=asked.deserialize, response_serializer=answer.serialize
            )
            for name, (act, asked, answer) in methods.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("google.cloud.kms.v1.KeyManagementService", handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self._server.start()

    def client(self) -> KeyManagementServiceClient:
        return KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=self._channel))

    def stop(self) -> None:
        self._server.stop(None).wait()

    def close(self) -> None:
        self._channel.close()
        self.stop()

    def rotate(self) -> None:
        self.versions[GCP_KEY].append(os.urandom(32))

    def _handler(self, name: str, act: Any) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            self.deadlines.append(context.time_remaining())
            if self.fails:
                context.abort(self.fails.pop(0), "told so by the stub")
            if self.denied:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, f"Permission denied on '{request.name}'")
            if request.name not in self.versions:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
            return act(request, context)

        return handle

    def _received(self, data: bytes, checksum: int | None, context: grpc.ServicerContext) -> bytes:
        if self.tampers_requests:
            self.tampers_requests -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        if checksum is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a request without a checksum")
        return data

    def _encrypt(self, request: Any, context: grpc.ServicerContext) -> Any:
        plain = self._received(request.plaintext, request.plaintext_crc32c, context)
        bound = request.additional_authenticated_data
        nonce = os.urandom(12)
        number = len(self.versions[request.name])
        sealed = AESGCM(self.versions[request.name][-1]).encrypt(nonce, plain, bound)
        data = number.to_bytes(2, "big") + nonce + sealed
        answer = service.EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/{number}",
            ciphertext=data,
            ciphertext_crc32c=crc32c(data),
            # The real service checks what came, and says so; it refuses nothing that it did not find wrong.
            verified_plaintext_crc32c=crc32c(plain) == request.plaintext_crc32c,
            verified_additional_authenticated_data_crc32c=crc32c(bound) == request.additional_authenticated_data_crc32c,
        )
        if self.tampers_answers:
            self.tampers_answers -= 1
            answer.ciphertext = data[:-1] + bytes([data[-1] ^ 1])
        return answer

    def _decrypt(self, request: Any, context: grpc.ServicerContext) -> Any:
        data = self._received(request.ciphertext, request.ciphertext_crc32c, context)
        number = int.from_bytes(data[:2], "big")
        try:
            key = self.versions[request.name][number - 1]
            plain = AESGCM(key).decrypt(data[2:14], data[14:], request.additional_authenticated_data)
        except (InvalidTag, IndexError, ValueError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: verify that 'name' refers to the key")
        checksum = crc32c(plain)
        if self.tampers_answers:
            self.tampers_answers -= 1
            plain = bytes([plain[0] ^ 1]) + plain[1:]
        return service.DecryptResponse(plaintext=plain, plaintext_crc32c=checksum)


_ROUTE = re.compile(r"/keys/(?P<name>[A-Za-z0-9-]+)/(?P<version>[0-9a-f]{32})?(?:/(?P<verb>wrapkey|unwrapkey))?")


@dataclass
class KeyVault:
    """One RSA key and its versions, behind TLS. ``fails`` are the statuses of the next answers."""

    folder: Path
    versions: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    denied: bool = False

    def __post_init__(self) -> None:
        self.rotate()
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = vault.answer(self.command, self.path, self.headers.get("Authorization"), body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.certificate = _certificate(self.folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def key_url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/keys/escrow"

    def rotate(self) -> str:
        version = os.urandom(16).hex()
        self.versions[version] = rsa.generate_private_key(65537, 2048)
        return version

    def client(self) -> Any:
        """A client of azure-core, as the leaf makes one, that trusts this service."""
        from azure.core import PipelineClient
        from azure.core.credentials import AccessToken
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy
        from azure.core.pipeline.transport import RequestsTransport

        class Credential:
            def get_token(self, *scopes: str, **_: Any) -> AccessToken:
                assert scopes == ("https://vault.azure.net/.default",)
                return AccessToken("a-token", 2**40)

        policies: list[Any] = [BearerTokenCredentialPolicy(Credential(), "https://vault.azure.net/.default")]
        transport = RequestsTransport(connection_verify=str(self.certificate))
        return PipelineClient(self.key_url, policies=policies, transport=transport)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, target: str, authorization: str | None, body: bytes) -> tuple[int, Any]:
        url = urlsplit(target)
        self.requests.append(f"{method} {url.path}")
        if self.fails:
            return self.fails.pop(0), _error("InternalError")
        if authorization != "Bearer a-token":
            return 401, _error("Unauthorized")
        found = _ROUTE.fullmatch(url.path)
        if found is None or parse_qs(url.query) != {"api-version": ["7.4"]}:
            return 400, _error("BadParameter")
        if self.denied:
            return 403, {"error": {"code": "Forbidden", "message": "no", "innererror": {"code": "ForbiddenByRbac"}}}
        if found["name"] != "escrow" or (found["version"] or next(iter(self.versions))) not in self.versions:
            return 404, _error("KeyNotFound")
        if method == "GET" and found["verb"] is None:
            newest = list(self.versions)[-1]
            return 200, {"key": {"kid": f"{self.key_url}/{newest}", "kty": "RSA"}, "attributes": {"enabled": True}}
        if method != "POST" or found["verb"] is None or found["version"] is None:
            return 400, _error("BadParameter")
        return self._crypt(found["verb"], found["version"], json.loads(body))

    def _crypt(self, verb: str, version: str, asked: dict[str, str]) -> tuple[int, Any]:
        if set(asked) != {"alg", "value"} or asked["alg"] != "RSA-OAEP-256" or "=" in asked["value"]:
            return 400, _error("BadParameter")
        value = base64.urlsafe_b64decode(asked["value"] + "=" * (-len(asked["value"]) % 4))
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        key = self.versions[version]
        try:
            result = key.public_key().encrypt(value, oaep) if verb == "wrapkey" else key.decrypt(value, oaep)
        except ValueError:
            return 400, _error("BadParameter")
        text = base64.urlsafe_b64encode(result).rstrip(b"=").decode()
        return 200, {"kid": f"{self.key_url}/{version}", "value": text}


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "told so by the stub"}}


def _certificate(folder: Path) -> Path:
    """A certificate of loopback and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "service.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
