"""Files and folders on any storage that fsspec knows: a local folder, s3://bucket/folder, gs://, memory://.

A folder is published whole or not at all: files first, then `manifest.json` (size and SHA-256 of each), then `COMMIT`
(SHA-256 of the manifest). A reader trusts nothing without a COMMIT that fits.

Every call of a storage that is not a local folder has a deadline. What may pass by itself (no answer, no connection, an
overloaded or broken server) is tried again for `FCN_STORAGE_PATIENCE_S` and is an `UnavailableError` after that; what
will not (no access, no bucket) is a `RefusedError` at once.
"""

from fcn_core.storage.cache import Copies, cache_folder, cached, fetch
from fcn_core.storage.calls import Limits, RefusedError, UnavailableError, absolute, is_local, join, waiting
from fcn_core.storage.files import (
    PARTIAL,
    check_access,
    create_bytes,
    exists,
    find_files,
    list_folder,
    read_bytes,
    version,
    write_bytes,
)
from fcn_core.storage.folders import (
    COMMIT,
    MANIFEST,
    TornError,
    is_whole,
    publishing,
    read_manifest,
    read_published,
    remove_folder,
    verify,
)

__all__ = [
    "COMMIT",
    "MANIFEST",
    "PARTIAL",
    "Copies",
    "Limits",
    "RefusedError",
    "TornError",
    "UnavailableError",
    "absolute",
    "cache_folder",
    "cached",
    "check_access",
    "create_bytes",
    "exists",
    "fetch",
    "find_files",
    "is_local",
    "is_whole",
    "join",
    "list_folder",
    "publishing",
    "read_bytes",
    "read_manifest",
    "read_published",
    "remove_folder",
    "verify",
    "version",
    "waiting",
    "write_bytes",
]
