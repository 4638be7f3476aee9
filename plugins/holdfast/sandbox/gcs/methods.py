"""The methods of the JSON API: which are carried out, and which of their parameters.

A parameter is honoured, accepted without effect (it has nothing to act on here), or refused with 501.
What no method knows is refused with 400. The tests hold this table against Google's discovery document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.sandbox.gcs.names import decoded

# Parameters of every method. Access control lists and billing do not exist here, so the last two have no effect.
COMMON = frozenset(
    (
        *("alt", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "uploadType", "userIp"),
        *("projection", "userProject"),
    )
)
_GENERATION = frozenset(("ifGenerationMatch", "ifGenerationNotMatch"))
_METAGENERATION = frozenset(("ifMetagenerationMatch", "ifMetagenerationNotMatch"))
_SOURCE = frozenset(
    (
        "ifSourceGenerationMatch",
        "ifSourceGenerationNotMatch",
        "ifSourceMetagenerationMatch",
        "ifSourceMetagenerationNotMatch",
    )
)
_PRE = _GENERATION | _METAGENERATION


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        id: as in the discovery document, e.g. ``objects.get``.
        verb: HTTP method.
        template: path below ``/storage/v1/``, names in braces.
        honoured: query parameters that take effect.
        refused: query parameters that are answered 501.
    """

    id: str
    verb: str
    template: str
    honoured: frozenset[str]
    refused: frozenset[str] = frozenset()

    def match(self, verb: str, segments: list[str]) -> dict[str, str] | None:
        """The variables of a path, given as its undecoded segments; None when it is not this method's."""
        names = self.template.split("/")
        if verb != self.verb or len(names) != len(segments):
            return None
        found: dict[str, str] = {}
        for name, segment in zip(names, segments, strict=True):
            variable = re.fullmatch(r"\{(\w+)\}", name)
            if variable:
                found[variable[1]] = decoded(segment)
            elif name != segment:
                return None
        return found


def _method(id: str, verb: str, template: str, honoured: frozenset[str] | str = "", refused: str = "") -> Method:
    names = frozenset(honoured.split()) if isinstance(honoured, str) else honoured
    return Method(id, verb, template, names, frozenset(refused.split()))


METHODS = (
    _method("buckets.list", "GET", "b", "project prefix maxResults pageToken", "softDeleted returnPartialSuccess"),
    _method("buckets.insert", "POST", "b", "project enableObjectRetention", "predefinedAcl predefinedDefaultObjectAcl"),
    _method("buckets.get", "GET", "b/{bucket}", _METAGENERATION, "generation softDeleted"),
    _method("buckets.patch", "PATCH", "b/{bucket}", _METAGENERATION, "predefinedAcl predefinedDefaultObjectAcl"),
    _method("buckets.update", "PUT", "b/{bucket}", _METAGENERATION, "predefinedAcl predefinedDefaultObjectAcl"),
    _method("buckets.delete", "DELETE", "b/{bucket}", _METAGENERATION),
    _method("buckets.lockRetentionPolicy", "POST", "b/{bucket}/lockRetentionPolicy", "ifMetagenerationMatch"),
    _method(
        "objects.list",
        "GET",
        "b/{bucket}/o",
        "prefix delimiter startOffset endOffset includeTrailingDelimiter matchGlob maxResults pageToken versions",
        "filter includeFoldersAsPrefixes softDeleted",
    ),
    _method(
        "objects.insert",
        "POST",
        "b/{bucket}/o",
        _PRE | {"name", "contentEncoding"},
        "kmsKeyName predefinedAcl",
    ),
    _method("objects.get", "GET", "b/{bucket}/o/{object}", _PRE | {"generation"}, "restoreToken softDeleted"),
    _method(
        "objects.patch",
        "PATCH",
        "b/{bucket}/o/{object}",
        _PRE | {"generation", "overrideUnlockedRetention"},
        "predefinedAcl",
    ),
    _method(
        "objects.update",
        "PUT",
        "b/{bucket}/o/{object}",
        _PRE | {"generation", "overrideUnlockedRetention"},
        "predefinedAcl",
    ),
    _method("objects.delete", "DELETE", "b/{bucket}/o/{object}", _PRE | {"generation"}),
    _method(
        "objects.compose",
        "POST",
        "b/{destinationBucket}/o/{destinationObject}/compose",
        "ifGenerationMatch ifMetagenerationMatch",
        "destinationPredefinedAcl dropContextGroups kmsKeyName",
    ),
    _method(
        "objects.copy",
        "POST",
        "b/{sourceBucket}/o/{sourceObject}/copyTo/b/{destinationBucket}/o/{destinationObject}",
        _PRE | _SOURCE | {"sourceGeneration"},
        "destinationKmsKeyName destinationPredefinedAcl",
    ),
    _method(
        "objects.rewrite",
        "POST",
        "b/{sourceBucket}/o/{sourceObject}/rewriteTo/b/{destinationBucket}/o/{destinationObject}",
        _PRE | _SOURCE | {"sourceGeneration", "rewriteToken", "maxBytesRewrittenPerCall"},
        "destinationKmsKeyName destinationPredefinedAcl dropContextGroups",
    ),
    _method("objects.move", "POST", "b/{bucket}/o/{sourceObject}/moveTo/o/{destinationObject}", _PRE | _SOURCE),
)


def find(verb: str, segments: list[str]) -> tuple[Method, dict[str, str]] | None:
    """The method a request is for, with the variables of its path."""
    for method in METHODS:
        variables = method.match(verb, segments)
        if variables is not None:
            return method, variables
    return None
