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
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.cloud.kms_v1.types import resources, service
from google_crc32c import value as crc32c

GCP_KEY = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
GCP_SIGNING_KEY = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/sign/cryptoKeyVersions/1"


#: What each method asks for, as the clouds document it.
_GCP_RIGHTS = {
    "Encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
    "Decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
    "AsymmetricSign": "cloudkms.cryptoKeyVersions.useToSign",
    "GetPublicKey": "cloudkms.cryptoKeyVersions.viewPublicKey",
}
_AZURE_RIGHTS = {
    None: "Microsoft.KeyVault/vaults/keys/read",
    "sign": "Microsoft.KeyVault/vaults/keys/sign/action",
    "wrapkey": "Microsoft.KeyVault/vaults/keys/wrap/action",
    "unwrapkey": "Microsoft.KeyVault/vaults/keys/unwrap/action",
}


class CloudKms:
    """Symmetric keys by resource name, and versions of one that signs. ``fails``: what goes wrong at the next calls."""

    def __init__(self) -> None:
        self.signing: dict[str, ec.EllipticCurvePrivateKey] = {
            GCP_SIGNING_KEY: ec.generate_private_key(ec.SECP256R1()),
            GCP_SIGNING_KEY.replace("Versions/1", "Versions/2"): ec.generate_private_key(ec.SECP384R1()),
        }
        self.versions: dict[str, list[bytes]] = {GCP_KEY: [os.urandom(32)]}
        #: The version that says it signed, if it is another one than was asked.
        self.signed_by: str | None = None
        self.calls: list[str] = []
        self.deadlines: list[float] = []
        self.fails: list[grpc.StatusCode] = []
        self.denied = False
        #: The permissions of who asks; ``None``: all.
        self.allowed: set[str] | None = None
        #: So many answers are changed on the way back, and requests on the way there.
        self.tampers_answers = 0
        self.tampers_requests = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        methods = {
            "Encrypt": (self._encrypt, service.EncryptRequest, service.EncryptResponse),
            "Decrypt": (self._decrypt, service.DecryptRequest, service.DecryptResponse),
            "AsymmetricSign": (self._sign, service.AsymmetricSignRequest, service.AsymmetricSignResponse),
            "GetPublicKey": (self._public_key, service.GetPublicKeyRequest, resources.PublicKey),
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
            if self.denied or (self.allowed is not None and _GCP_RIGHTS[name] not in self.allowed):
                what = f"Permission '{_GCP_RIGHTS[name]}' denied on resource '{request.name}'"
                context.abort(grpc.StatusCode.PERMISSION_DENIED, what)
            if request.name not in self.versions and request.name not in self.signing:
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

    def _public_key(self, request: Any, context: grpc.ServicerContext) -> Any:
        pem = _pem(self.signing[request.name])
        checksum = crc32c(pem)
        if self.tampers_answers:
            self.tampers_answers -= 1
            pem = pem.replace(b"A", b"B", 1)
        return resources.PublicKey(pem=pem.decode(), pem_crc32c=checksum, name=request.name)

    def _sign(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Exactly one of digest and data, as documented; a P-256 key wants the digest as SHA-256."""
        if request.data or not request.digest.sha256:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a P-256 key signs a SHA-256 digest")
        digest = self._received(request.digest.sha256, request.digest_crc32c, context)
        made = self.signing[request.name].sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        answer = service.AsymmetricSignResponse(
            signature=made,
            signature_crc32c=crc32c(made),
            verified_digest_crc32c=crc32c(digest) == request.digest_crc32c,
            name=self.signed_by or request.name,
        )
        if self.tampers_answers:
            self.tampers_answers -= 1
            answer.signature = made[:-1] + bytes([made[-1] ^ 1])
        return answer


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


_ROUTE = re.compile(r"/keys/(?P<name>[A-Za-z0-9-]+)/(?P<version>[0-9a-f]{32})?(?:/(?P<verb>wrapkey|unwrapkey|sign))?")


@dataclass
class KeyVault:
    """One RSA key and its versions, and one EC key's, behind TLS. ``fails`` are the statuses of the next answers."""

    folder: Path
    signing: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    #: What is signed instead of what was asked.
    signs_instead: bytes | None = None
    versions: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    denied: bool = False
    #: The data actions of who asks; ``None``: all.
    allowed: set[str] | None = None

    def __post_init__(self) -> None:
        self.rotate()
        self.signing[os.urandom(16).hex()] = ec.generate_private_key(ec.SECP256R1())
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

    @property
    def signing_url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/keys/cosigner/{next(iter(self.signing))}"

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
        if self.denied or (self.allowed is not None and _AZURE_RIGHTS[found["verb"]] not in self.allowed):
            return 403, {"error": {"code": "Forbidden", "message": "no", "innererror": {"code": "ForbiddenByRbac"}}}
        if found["name"] == "cosigner" and found["version"] in self.signing:
            return self._signing(method, found["verb"], found["version"], body)
        if found["name"] != "escrow" or (found["version"] or next(iter(self.versions))) not in self.versions:
            return 404, _error("KeyNotFound")
        if method == "GET" and found["verb"] is None:
            newest = list(self.versions)[-1]
            return 200, {"key": {"kid": f"{self.key_url}/{newest}", "kty": "RSA"}, "attributes": {"enabled": True}}
        if method != "POST" or found["verb"] is None or found["version"] is None:
            return 400, _error("BadParameter")
        return self._crypt(found["verb"], found["version"], json.loads(body))

    def _signing(self, method: str, verb: str | None, version: str, body: bytes) -> tuple[int, Any]:
        key = self.signing[version]
        if method == "GET" and verb is None:
            numbers = key.public_key().public_numbers()
            shown = {"kid": self.signing_url, "kty": "EC", "crv": "P-256" if key.key_size == 256 else "P-384"}
            shown |= {name: _base64url(getattr(numbers, name).to_bytes(key.key_size // 8)) for name in ("x", "y")}
            return 200, {"key": shown, "attributes": {"enabled": True}}
        asked = json.loads(body) if method == "POST" and verb == "sign" else {}
        if set(asked) != {"alg", "value"} or asked["alg"] != "ES256" or "=" in asked["value"]:
            return 400, _error("BadParameter")
        digest = base64.urlsafe_b64decode(asked["value"] + "=")
        if len(digest) != 32:
            return 400, _error("BadParameter")
        r, s = decode_dss_signature(key.sign(self.signs_instead or digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return 200, {"kid": self.signing_url, "value": _base64url(r.to_bytes(32) + s.to_bytes(32))}

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
        return 200, {"kid": f"{self.key_url}/{version}", "value": _base64url(result)}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


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
