"""Writing the XML API's documents."""

from __future__ import annotations


def document(root: str, inside: str) -> bytes:
    """A whole document; `inside` is escaped already."""
    return (
        f"<?xml version='1.0' encoding='UTF-8'?><{root} xmlns='http://doc.s3.amazonaws.com/2006-03-01'>{inside}</{root}>"
    ).encode()
