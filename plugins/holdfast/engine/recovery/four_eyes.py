"""Four eyes: whoever asks for something may not approve it as well."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from holdfast.engine.recovery.errors import SelfApproval


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: letter case, spaces around them and forms of Unicode make no difference."""
    return _plain(one) == _plain(other)


def four_eyes(required: bool, asked_by: str | None, approver: Sequence[str]) -> dict[str, bool | None]:
    """The verdict as records keep it.

    Args:
        required: whether the group asks for four eyes here.
        asked_by: who asked; none: nobody, a schedule or an event did.
        approver: the names the one who approved goes by; none: nobody approved.

    Returns ``required`` and ``held``: whether they are two people; ``None`` where there are not two to compare.
    """
    held = not any(same_person(asked_by, name) for name in approver) if asked_by and approver else None
    return {"required": required, "held": held}


def require_four_eyes(
    required: bool, asked_by: str | None, approver: Sequence[str], *, where: str, fix: str
) -> dict[str, bool | None]:
    """The verdict of `four_eyes`, where nobody approves what they asked for.

    Raises:
        SelfApproval: they do, and four eyes are required.
    """
    verdict = four_eyes(required, asked_by, approver)
    if required and verdict["held"] is False:
        raise SelfApproval(
            "whoever asks for it may not approve it as well",
            where=where,
            expected=f"the approval of somebody other than {asked_by} (four eyes)",
            found=f"that of {approver[0]}",
            fix=fix,
        )
    return verdict


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()
