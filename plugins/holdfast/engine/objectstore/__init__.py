"""One small interface to S3, GCS, Azure Blob, a local folder and memory. Everything else is a decorator on it."""

from holdfast.engine.objectstore.access import CredentialProvider, Credentials, StoreAccess, fixed
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.objectstore.interface import (
    CREATE,
    OVERWRITE,
    ByteRange,
    Capabilities,
    Create,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    Overwrite,
    PutMode,
)
from holdfast.engine.objectstore.local import local_store
from holdfast.engine.objectstore.memory import memory_store
from holdfast.engine.objectstore.opening import open_store
from holdfast.engine.objectstore.retry import DEFAULT_RETRY, RetryingStore, RetryPolicy
from holdfast.engine.objectstore.timeouts import Timeouts

__all__ = [
    "CREATE",
    "DEFAULT_RETRY",
    "OVERWRITE",
    "ByteRange",
    "Capabilities",
    "Create",
    "CredentialProvider",
    "Credentials",
    "IfMatch",
    "ObjectInfo",
    "ObjectReader",
    "ObjectStore",
    "ObjectVersion",
    "Overwrite",
    "PutMode",
    "RetryPolicy",
    "RetryingStore",
    "StoreAccess",
    "Timeouts",
    "access_from_connection",
    "fixed",
    "local_store",
    "memory_store",
    "open_store",
]
