"""A server that insists on a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from google.auth.exceptions import RefreshError
from google.cloud import storage
from google.oauth2.credentials import Credentials
from obstore.exceptions import UnauthenticatedError
from obstore.store import GCSStore

from sandbox.gcs.conftest import Server, free_port
from sandbox.gcs.web import HTTP


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(free_port(), tmp_path_factory.mktemp("guarded") / "data", options=("--require-token", "good"))
    yield running.start()
    running.stop()


@pytest.fixture(scope="module")
def home(guarded: Server) -> str:
    headers = {"authorization": "Bearer good"}
    target = f"{guarded.url}/storage/v1/b"
    HTTP.post(target, params={"project": "p"}, json={"name": "home"}, headers=headers).raise_for_status()
    return "home"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer bad"}, {"authorization": "Basic good"}])
def test_wrong_credentials_are_refused_in_each_apis_form(guarded: Server, home: str, headers: dict[str, str]) -> None:
    by_json = HTTP.get(f"{guarded.url}/storage/v1/b/{home}", headers=headers)
    assert (by_json.status_code, by_json.json()["error"]["errors"][0]["reason"]) == (401, "authError")
    by_xml = HTTP.put(f"{guarded.url}/{home}/k", headers=headers, content=b"1")
    assert (by_xml.status_code, "AuthenticationRequired" in by_xml.text) == (401, True)
    sneaky = HTTP.get(f"{guarded.url}/storage/v1/b/{home}", params={"upload_id": "1"}, headers=headers)
    assert sneaky.status_code == 401


def test_a_session_uri_is_a_credential_of_its_own(guarded: Server, home: str) -> None:
    start = HTTP.post(
        f"{guarded.url}/upload/storage/v1/b/{home}/o",
        params={"uploadType": "resumable", "name": "r"},
        headers={"authorization": "Bearer good"},
    )
    assert HTTP.put(start.headers["location"], content=b"1").status_code == 200


def test_obstore_with_each_recipe(guarded: Server, home: str) -> None:
    def store(**options: Any) -> GCSStore:
        return GCSStore(home, client_options={"allow_http": True}, retry_config={"max_retries": 0}, **options)

    asked = []

    def provide() -> Any:
        asked.append(1)
        return {"token": "good", "expires_at": None}

    obstore.put(store(config={"base_url": guarded.url, "bearer_token": "good"}), "a", b"1")
    obstore.put(store(config={"base_url": guarded.url}, credential_provider=provide), "b", b"1")
    assert asked
    with pytest.raises(UnauthenticatedError):
        obstore.put(store(config={"base_url": guarded.url, "bearer_token": "bad"}), "c", b"1")


def test_obstore_by_service_account_key_needs_no_token_service(own_server: Server) -> None:
    import json

    HTTP.post(f"{own_server.url}/storage/v1/b", params={"project": "p"}, json={"name": "home"}).raise_for_status()
    key = {"gcs_base_url": own_server.url, "disable_oauth": True, "client_email": "", "private_key": ""}
    config = {"service_account_key": json.dumps({**key, "private_key_id": ""})}
    store = GCSStore("home", config=config, client_options={"allow_http": True})
    obstore.put(store, "a", b"1")
    assert bytes(obstore.get(store, "a").bytes()) == b"1"


def test_googles_client(guarded: Server, home: str, tmp_path: Path) -> None:
    def client(token: str) -> storage.Client:
        return storage.Client(project="p", credentials=Credentials(token), client_options={"api_endpoint": guarded.url})

    client("good").bucket(home).blob("k").upload_from_string(b"1")
    assert client("good").bucket(home).blob("k").download_as_bytes() == b"1"
    with pytest.raises(RefreshError):
        client("bad").bucket(home).blob("k").download_as_bytes()
