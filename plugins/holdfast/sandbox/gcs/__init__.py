"""A Google Cloud Storage server for the sandbox: both APIs, durable, on loopback.

    python -m holdfast.sandbox.gcs --host 127.0.0.1 --port PORT --data DIR [--project NAME] [--require-token TOKEN]

It prints one line when it listens and answers ``GET /_holdfast/ready`` with 200. It is not Google Cloud;
docs/reference/sandbox-gcs.md says what it does, what it refuses with 501 and how it was checked.

**Durability.** Metadata, and content up to 32 KiB, lie in one SQLite database in WAL mode with
``synchronous=FULL``. Larger content is written to a file under a random name, synced, and named by a database
record only afterwards. SQLite was chosen because a precondition, the change it guards and the bookkeeping
of shared content are then one transaction that is there or not there after ``kill -9``; a single writer
thread puts every change that waits into one commit, so a sync to disk is shared by all of them. Content files
are never changed, so readers need no locks; files a crash left without a record are swept at the next start.

**Pointing clients at it** (``BASE`` is ``http://127.0.0.1:PORT``; every recipe was run):

``obstore`` speaks the XML API. ``skip_signature`` is not enough: puts and deletes still ask Google's metadata
server for a token. Give it a static token, or a credential provider for tokens that expire::

    GCSStore("bucket", config={"base_url": BASE, "bearer_token": "anything"}, client_options={"allow_http": True})
    GCSStore("bucket", config={"base_url": BASE}, client_options={"allow_http": True},
             credential_provider=lambda: {"token": "...", "expires_at": datetime(..., tzinfo=UTC)})
    GCSStore("bucket", config={"service_account_key": json.dumps({"gcs_base_url": BASE, "disable_oauth": True,
             "client_email": "", "private_key": "", "private_key_id": ""})}, client_options={"allow_http": True})

Compare-and-swap needs the version: ``put(..., mode={"version": generation})``; ``e_tag`` alone is refused by the
client. ``list`` returns no version, ``head`` and ``get`` do.

``google-cloud-storage`` and Airflow's GCSHook: the environment variable ``STORAGE_EMULATOR_HOST=BASE`` (whole process),
or ``storage.Client(project=..., credentials=AnonymousCredentials(), client_options={"api_endpoint": BASE})``.

``gcsfs``: ``GCSFileSystem(project=..., token="anon", endpoint_url=BASE)``, with the environment variable
``GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false`` (otherwise it asks a gRPC service for the bucket's layout).
"""
