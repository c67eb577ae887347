"""What was begun on a storage and never ended, for who tidies up."""

from datetime import datetime
from typing import Any, NamedTuple

from fcn_core.storage.calls import RefusedError, open_url


class File(NamedTuple):
    """What a storage tells of a file or, on this machine, of a folder."""

    size: int
    is_folder: bool
    changed: float | None
    """When, in seconds since 1970; None if the storage does not tell."""


class Upload(NamedTuple):
    """A multipart upload that has not ended."""

    url: str
    """Of the file that it would become."""
    id: str
    begun: float
    """When, in seconds since 1970."""


def walk(url: str) -> dict[str, File]:
    """Return everything below a folder by path relative to it, folders too where they are more than a prefix."""
    place = open_url(url)
    root = f"{place.path.rstrip('/')}/"
    found = place.find()
    below = {path.removeprefix(root): facts for path, facts in found.items() if path.startswith(root)}
    return {
        path: File(facts.get("size") or 0, facts["type"] == "directory", _changed(facts))
        for path, facts in sorted(below.items())
        if path
    }


def uploads(url: str) -> list[Upload]:
    """Return the multipart uploads below a folder that have not ended; none where the storage knows no such thing.

    Raises:
        RefusedError: they may not be listed.
    """
    place = open_url(url)
    if "s3" not in place.filesystem.protocol:
        return []
    bucket, _, prefix = place.path.partition("/")
    under = f"{prefix.rstrip('/')}/" if prefix else ""
    found: list[dict[str, Any]] = []
    marker: dict[str, Any] = {}
    while True:
        try:
            page = place.call("call_s3", "list_multipart_uploads", Bucket=bucket, **marker)
        except RefusedError as error:
            right = "s3:ListBucketMultipartUploads"
            raise RefusedError(f"uploads that never ended cannot be listed without {right}: {error}") from error
        # The servers do not agree on what a prefix is here.
        found += [one for one in page.get("Uploads", []) if one["Key"].startswith(under)]
        if not page.get("IsTruncated"):
            break
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    return [Upload(f"s3://{bucket}/{one['Key']}", one["UploadId"], one["Initiated"].timestamp()) for one in found]


def abort_upload(upload: Upload) -> None:
    """Give up a multipart upload; its parts are deleted."""
    place = open_url(upload.url)
    bucket, _, key = place.path.partition("/")
    place.call("call_s3", "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.id)


def _changed(facts: dict[str, Any]) -> float | None:
    for name in ("LastModified", "mtime", "last_modified", "updated", "created"):
        value = facts.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
