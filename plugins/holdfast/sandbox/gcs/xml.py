"""Writing the XML API's documents."""

from __future__ import annotations

# Google answers a list in one namespace and multipart uploads in another, and its own client minds.
LIST_NAMESPACE = "http://doc.s3.amazonaws.com/2006-03-01"
UPLOAD_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def document(root: str, namespace: str, inside: str) -> bytes:
    """A whole document; `inside` is escaped already."""
    return f"<?xml version='1.0' encoding='UTF-8'?><{root} xmlns='{namespace}'>{inside}</{root}>".encode()
