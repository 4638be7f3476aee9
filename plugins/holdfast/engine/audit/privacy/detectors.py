"""Which kinds of personal data a text holds. Only the kinds are told, never what was found.

Everything is looked up in tables of the packages: check digits of IBANs and cards in `stdnum`, the world's numbering
plans in `phonenumbers` (the extra `pii`). No model, no network. Each pattern is bounded, so a text of any length takes
time in proportion to it. What stands inside of a longer word or number (an ARN, a UUID, a digest) is not what it looks
like.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec

from holdfast.errors import ConfigError


class Kind(StrEnum):
    """Of personal data."""

    EMAIL = "email-address"
    PHONE = "phone-number"
    IBAN = "iban"
    CARD = "card-number"
    IP = "ip-address"


#: From the at sign on, as it is or as in an URL. Google's service accounts are no people.
_EMAIL = re.compile(
    r"(?<=[\w!#$%&'*+/=?^`{|}~\"-])(?:@|%40)(?![\w.-]{1,300}\.gserviceaccount\.com(?!\.?[\w-]))"
    r"(?:[^\W_][\w-]{0,62}\.){1,8}(?:xn--[a-z0-9-]{1,59}|[^\W\d_]{2,63})(?![\w-])",
    re.IGNORECASE,
)
#: International: a plus sign and seven digits or more.
_PHONE = re.compile(r"(?<![\w+])[+＋](?=(?:[ ().\-/]{0,3}\d){7})")
_PHONE_CHARACTERS, _PHONE_TRIES = 48, 10
_IBAN = re.compile(
    r"(?<![\w+/=.-])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![\w+/=])", re.ASCII
)
#: As cards are printed, or in one piece.
_CARD = re.compile(
    r"(?<![\w.+/-])(?<!\d )(?:\d{14,16}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w/-]|\.\d| \d)",
    re.ASCII,
)
#: Visa, Mastercard, American Express, Diners Club, Discover, UnionPay and JCB, in the lengths that are issued: numbers
#: of 19 digits are more often a cloud's ids.
_ISSUED = re.compile(
    r"4\d{15}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|35(?:2[89]|[3-8]\d))\d{12}"
)
#: After a word and a slash it is a product's version.
_IPV4 = re.compile(r"(?<![\w.-])(?<![A-Za-z]/)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?::\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])", re.ASCII
)
#: Texts up to so many characters are remembered, so many of them: most of a log are said again and again.
_REMEMBERED_CHARACTERS, _REMEMBERED = 256, 65_536


def require_extra(where: str) -> None:
    """Raises ConfigError: the extra `pii` is not installed.

    Args:
        where: who needs it.
    """
    missing = [name for name in ("phonenumbers", "stdnum") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "looking for personal data needs phonenumbers and python-stdnum",
            where=where,
            expected="the extra `pii`",
            found=f"no module {missing[0]}",
            fix="pip install 'holdfast[pii]'",
        )


def kinds_of(text: str) -> frozenset[Kind]:
    """What a text holds, wherever in it."""
    return _remembered(text) if len(text) <= _REMEMBERED_CHARACTERS else _kinds(text)


def _kinds(text: str) -> frozenset[Kind]:
    return frozenset(kind for kind, holds in _DETECTORS.items() if holds(text))


_remembered = lru_cache(_REMEMBERED)(_kinds)


def _has_phone(text: str) -> bool:
    if "+" not in text and "＋" not in text:
        return False
    begins = (one.start() for one in _PHONE.finditer(text))
    return any(_is_phone(text[begin : begin + _PHONE_CHARACTERS]) for begin in begins)


@lru_cache(_REMEMBERED)
def _is_phone(text: str) -> bool:
    from phonenumbers import PhoneNumberMatcher

    return PhoneNumberMatcher(text, None, max_tries=_PHONE_TRIES).has_next()


def _has_iban(text: str) -> bool:
    from stdnum import iban

    for found in _IBAN.finditer(text):
        groups = found[0].split(" ")
        # In groups, what follows may be a word of the text.
        if any(iban.is_valid("".join(groups[:end])) for end in range(len(groups), 0, -1)):
            return True
    return False


def _has_card(text: str) -> bool:
    from stdnum import luhn

    numbers = (re.sub(r"[ -]", "", found[0]) for found in _CARD.finditer(text))
    return any(_ISSUED.fullmatch(number) and luhn.is_valid(number) for number in numbers)


def _has_ip(text: str) -> bool:
    patterns = (_IPV4, _IPV6) if text.count(":") > 1 else (_IPV4,)
    return any(_is_of_a_machine(found[0]) for pattern in patterns for found in pattern.finditer(text))


def _is_of_a_machine(text: str) -> bool:
    """Whether it is an address that one machine has, and not only within itself or its link."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    special = found.is_loopback or found.is_unspecified or found.is_link_local or found.is_multicast
    return not special and not (found.version == 4 and found.is_reserved)


_DETECTORS: dict[Kind, Callable[[str], bool]] = {
    Kind.EMAIL: lambda text: ("@" in text or "%40" in text) and _EMAIL.search(text) is not None,
    Kind.PHONE: _has_phone,
    Kind.IBAN: _has_iban,
    Kind.CARD: _has_card,
    Kind.IP: _has_ip,
}
