"""Small pieces of HTML for the report. Every text passes through `text`, so nothing in a journal can become markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

UNKNOWN = '<span class="unknown">unknown</span>'
_BADGES = {True: ("pass", "✓ holds"), False: ("fail", "✗ does not hold"), None: ("unknown", "? unknown")}


def text(value: object) -> str:
    """Any value as escaped text."""
    return html.escape(str(value), quote=True)


def seconds(value: object) -> str:
    """Seconds with two decimals, unknown where there is no number."""
    return f"{value:,.2f} s" if _is_number(value) else UNKNOWN


def number(value: object) -> str:
    return f"{value:,}" if _is_number(value) else UNKNOWN


def size(value: object) -> str:
    """Bytes, exactly, and rounded for the eye."""
    if not _is_number(value):
        return UNKNOWN
    amount, unit = float(value), "B"  # type: ignore[arg-type]  # _is_number said so
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{value:,} B" + (f" ({amount:,.1f} {unit})" if unit != "B" else "")


def code(value: object) -> str:
    return UNKNOWN if value is None else f"<code>{text(value)}</code>"


def badge(verdict: object) -> str:
    """A verdict in words and colour. Whatever is neither true nor false is unknown."""
    kind, words = _BADGES[verdict if isinstance(verdict, bool) else None]
    return f'<span class="badge {kind}">{words}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells that are HTML already."""
    titles = "".join(f"<th>{text(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values; the values are HTML already."""
    return '<dl class="facts">' + "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def section(title: str, body: str, *, lead: str = "") -> str:
    lead_html = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f"<section><h2>{text(title)}</h2>{lead_html}{body}</section>"


def page(title: str, body: str) -> str:
    """A whole page without script or external resource; the body is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def plain(value: object) -> str:
    """Any JSON value, short."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, str) and value.startswith(("blake3:", "sha256:")):
        return code(value)
    if isinstance(value, int | str):
        return text(value)
    return f"<code>{text(json.dumps(value, ensure_ascii=False, sort_keys=True))}</code>"


def folded(title: str, value: Any) -> str:
    """A JSON value that opens on a click, and in print."""
    if value in (None, {}, []):
        return ""
    body = text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))
    return f"<details><summary>{text(title)}</summary><pre>{body}</pre></details>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2530;--dim:#5b6876;--line:#d9dfe6;--soft:#f4f6f9;--pass:#116b3a;
--pass-bg:#e3f5ea;--fail:#a3182b;--fail-bg:#fdE7ea;--unk:#7a5200;--unk-bg:#fff2d6;--bar:#2f6fb2;--bar2:#7b8b9b;
--fault:#c8394a}@media(prefers-color-scheme:dark){:root{--bg:#12171d;--fg:#e4e9ef;--dim:#9aa8b6;--line:#2c3641;
--soft:#1a2129;--pass:#6fdc9c;--pass-bg:#12341f;--fail:#ff8b98;--fail-bg:#401319;--unk:#ffcf70;--unk-bg:#3c2c08;
--bar:#5da2ea;--bar2:#6c7a88;--fault:#ff6677}}*{box-sizing:border-box}body{margin:0 auto;max-width:1060px;
padding:28px 20px 60px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}h1{font-size:26px;
margin:0 0 4px;line-height:1.25}h2{font-size:18px;margin:34px 0 8px;padding-bottom:4px;
border-bottom:1px solid var(--line)}h3{font-size:15px;margin:18px 0 6px}p{margin:6px 0 10px}.lead{color:var(--dim)}
code,pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{background:var(--soft);padding:10px;border-radius:6px;white-space:pre-wrap;margin:6px 0}
.banner{border-radius:10px;padding:14px 18px;margin:16px 0;border:1px solid currentColor}.banner b{font-size:19px;
display:block}.pass{color:var(--pass);background:var(--pass-bg)}.fail{color:var(--fail);background:var(--fail-bg)}
.unknown{color:var(--unk);background:var(--unk-bg)}span.unknown{border-radius:4px;padding:0 5px}
.badge{display:inline-block;border-radius:999px;padding:1px 10px;font-weight:600;white-space:nowrap;font-size:13px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:6px 0 12px;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:6px 10px;border-bottom:1px solid var(--line)}th{color:var(--dim);
font-weight:600;font-size:12.5px;white-space:nowrap}.facts{display:grid;grid-template-columns:max-content 1fr;
gap:3px 16px;margin:8px 0}.facts dt{color:var(--dim)}.facts dd{margin:0}summary{cursor:pointer;color:var(--dim);
font-size:13px}svg{width:100%;height:auto;display:block;margin:8px 0}td{overflow-wrap:break-word}
svg text{fill:var(--fg);font:12px system-ui,sans-serif;paint-order:stroke;stroke:var(--bg);stroke-width:4px;
stroke-linejoin:round}svg .dim{fill:var(--dim)}footer{margin-top:40px;color:var(--dim);font-size:13px}
ul{margin:6px 0;padding-left:20px}li{margin:3px 0}@media print{body{max-width:none;padding:0;font-size:12px}
section{break-inside:auto}tr,svg,.banner{break-inside:avoid}h2{break-after:avoid}
details::details-content{content-visibility:visible;block-size:auto}*{-webkit-print-color-adjust:exact;
print-color-adjust:exact}:root{--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--soft:#f2f2f2;--pass:#0a5a2e;
--pass-bg:#e3f5ea;--fail:#8f1223;--fail-bg:#fde7ea;--unk:#6b4700;--unk-bg:#fff2d6;--bar:#2f6fb2;--bar2:#7b8b9b;
--fault:#c8394a}}
"""
