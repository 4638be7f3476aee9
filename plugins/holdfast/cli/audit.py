"""``holdfast audit …``: export, verify, coverage, shred, keys; the other commands come from their own files."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from holdfast.cli.audit_answer import print_answer, progress_bars
from holdfast.cli.audit_controls import app as controls_app
from holdfast.cli.audit_discover import app as discover_app
from holdfast.cli.audit_fetch import app as fetch_app
from holdfast.cli.audit_options import (
    DRILL,
    ExportsArgument,
    KeyOption,
    NeedOption,
    SubjectKeysOption,
    drill_keys,
    state_text,
    subject_ring,
    trusted_keys,
)
from holdfast.cli.audit_proof import app as proof_app
from holdfast.cli.audit_select import app as select_app
from holdfast.cli.output import JsonOption, TopologyOption, cell, console, errors, print_json, reports_errors
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.engine.audit.interface import Coverage, Document, Interval

app = typer.Typer(
    help="Audit events of every cloud and of Airflow: exported, sealed, verified offline.",
    no_args_is_help=True,
    epilog="Exit codes of verify, coverage and check-proof: 0 fine, 2 bad input, 5 tampered, 6 incomplete, 7 unknown; "
    "of discover: 8 found.",
)
app.add_typer(fetch_app)
app.add_typer(proof_app)
app.add_typer(select_app)
app.add_typer(controls_app)
app.add_typer(discover_app)

_EVERY_SECONDS = 5.0


@app.command("export")
@reports_errors
def export(
    output: Annotated[Path | None, typer.Option("--output", help="An empty folder for a copy of the export.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Where a source's first export begins (ISO 8601).")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Where it ends, at latest now; default: now.")] = None,
    document: Annotated[
        list[Path] | None, typer.Option("--document", help="A file to be sealed too, e.g. posture findings.")
    ] = None,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Collect what is new of every source of the topology, and seal it into the ledger at two clouds or more.

    Interrupted, it goes on where it was. A source that cannot be read is sealed as unknown and asked again by the next
    export; whether anything is missing, `audit verify` and `audit coverage` tell.

    Exit codes: 0 sealed, 1 failed, 2 bad input, 3 another export runs here, or the clock is behind the newest seal, 5
    the ledger was tampered with, 6 sealed, but in one cloud alone.
    """
    from holdfast.engine.audit.export import export_audit
    from holdfast.engine.audit.moments import parse_moment
    from holdfast.engine.runtime import Runtime

    runtime = Runtime.from_environment(topology)
    done = export_audit(
        runtime,
        output=output,
        since=parse_moment(since, "--since"),
        until=parse_moment(until, "--until"),
        documents=list(_documents(document or ())),
        progress=_Intervals(),
    )
    for problem in done.problems:
        errors.print(f"holdfast: {problem.kind}: {problem}", style="yellow", markup=False)
    if as_json:
        print_json(done.to_json())
        raise typer.Exit(done.exit_code)
    table = Table("source", "kind", "events", "state", box=None)
    for one in done.manifest.sources:
        table.add_row(one.name, one.kind, f"{one.records:,}", state_text(str(one.state)))
    console.print(table)
    record = done.record
    console.print(f"Seal {record.seal} of {record.origin}: {record.size:,} leaves, root {record.root[:16]}")
    for copy in done.copied:
        console.print(
            f"  {copy.site}: {'sealed' if copy.error is None else copy.error}; {done.locked.get(copy.site, '')}"
        )
        if copy.tiles is not None:
            console.print(f"  {copy.site}: its tiles are behind, the next seal makes up for it: {copy.tiles}")
    if done.folder is not None:
        console.print(
            f"A copy is in {done.folder}; verify it: holdfast audit verify {done.folder} --key KEYS, a file of what "
            "`holdfast audit keys` prints",
            markup=False,
        )
    raise typer.Exit(done.exit_code)


@app.command("verify")
@reports_errors
def verify(
    exports: ExportsArgument,
    key: KeyOption = None,
    need: NeedOption = None,
    remembered: Annotated[
        Path | None,
        typer.Option("--remembered", help="A checkpoint seen before: the exports must not be older, nor another log."),
    ] = None,
    time_roots: Annotated[
        list[Path] | None,
        typer.Option("--time-roots", help="PEM certificates of an authority (RFC 3161): verify the checkpoint's time."),
    ] = None,
    subject_keys: SubjectKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify exports offline: signatures, every byte, every event's place in the log, and whether events are missing.

    Nothing is asked of a cloud, of Airflow or of a network. Without a trusted key nobody vouches for it: unknown.

    Exit codes: 0 fine, 2 bad input, 5 tampered, 6 incomplete, 7 unknown; of several the first of 5, 6, 7.
    """
    from holdfast.engine.audit.chain import exports_below, read_checkpoint, verify_exports

    folders = [folder for one in exports for folder in exports_below(one)]
    kept = read_checkpoint(remembered) if remembered else None
    ring = subject_ring(subject_keys)
    with progress_bars() as progress:
        answer, each = verify_exports(
            folders,
            trusted=trusted_keys(key),
            drill_keys=drill_keys(key),
            needed=need,
            remembered=kept,
            time_roots=[_bytes_of(file, "the certificate") for file in time_roots or ()],
            subject_keys=ring.by_id() if ring else None,
            progress=progress,
        )
    if as_json:
        print_json({**answer.to_json(), "exports": [one.answer.to_json() for one in each]})
    else:
        print_answer(answer)
    raise typer.Exit(answer.exit_code)


@app.command("coverage")
@reports_errors
def coverage(exports: ExportsArgument, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Tell per source and interval whether all events are there, and by what proof.

    Exit codes: as `verify`.
    """
    from holdfast.engine.audit.chain import exports_below, fold_coverage, verify_exports
    from holdfast.engine.audit.coverage import coverage_as_dict

    folders = [folder for one in exports for folder in exports_below(one)]
    answer, each = verify_exports(folders, trusted=trusted_keys(key), drill_keys=drill_keys(key))
    read = sorted((one for one in each if one.manifest), key=lambda one: one.answer.seal or 0)
    folded = fold_coverage(read)
    if as_json:
        rows = {source: [coverage_as_dict(one) for one in found.values()] for source, found in folded.items()}
        print_json({"verdict": answer.verdict, "exit_code": answer.exit_code, "sources": rows})
        raise typer.Exit(answer.exit_code)
    for source, found in folded.items():
        console.print(cell(source), style="bold")
        for one in found.values():
            _print_interval(one)
    print_answer(answer, problems=False)
    raise typer.Exit(answer.exit_code)


def _print_interval(one: Coverage) -> None:
    """On lines of its own and not in a table: it is whole in a terminal of 80 columns too."""
    window = f"{one.interval.start:%Y-%m-%d %H:%M} to {one.interval.end:%Y-%m-%d %H:%M}"
    parts = f"{one.observed}/{'?' if one.expected is None else one.expected} {cell(one.proof)}"
    padding = " " * (len("complete") - len(one.state))
    console.print(f"  {window}  {state_text(str(one.state))}{padding}  {parts}, {one.records:,} events")
    if one.findings:
        console.print(f"    {cell('; '.join(reason.detail for reason in one.findings)[:200])}")


@app.command("shred")
@reports_errors
def shred(
    subject: Annotated[str, typer.Argument(help="Exactly as its events name it: `actor.user.uid`, else the name.")],
    reason: Annotated[str, typer.Option("--reason", help="For the certificate; it must not name the subject.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    topology: TopologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a subject's key at every site: the bytes of its events can never be read again. Proofs stay valid.

    Exit codes: 0 shredded, 1 failed, 2 bad input, or there is no such key, 3 refused: a site is away or an export
    runs here, 6 not complete: run it again.
    """
    from holdfast.engine.audit.privacy.shred import Planned, shred_subject
    from holdfast.engine.runtime import Runtime

    def confirm(planned: Planned) -> None:
        if yes:
            return
        for site, versions in planned.versions.items():
            errors.print(f"{site}: {versions} versions of the key", markup=False)
        typer.confirm("Remove them for good? Nobody can read the subject's events afterwards", abort=True, err=True)

    done = shred_subject(Runtime.from_environment(topology), subject, reason=reason, confirm=confirm)
    if as_json:
        print_json(
            {
                **done.certificate.model_dump(mode="json"),
                "without_certificate": {site: str(error) for site, error in done.missing.items()},
            }
        )
        return
    for site, versions in done.certificate.sites.items():
        console.print(f"{site}: {versions} versions removed", markup=False)
    for site, error in done.missing.items():
        console.print(f"{site}: has no certificate yet, the next export brings it: {error}", markup=False)
    console.print(f"Certificate {done.certificate.name}; seal {done.certificate.next_seal} carries it", markup=False)


@app.command("keys")
@reports_errors
def keys(topology: TopologyOption = None, as_json: JsonOption = False) -> None:
    """Print the public keys that sign this ledger, and of `audit.keys.drills` those that sign drills' evidence.

    Give them to whoever verifies it, by another way than the export.
    """
    from holdfast.engine.audit import signing
    from holdfast.engine.audit.export import audit_settings
    from holdfast.engine.runtime import Runtime

    runtime = Runtime.from_environment(topology)
    audit_settings(runtime)
    found = [str(signer.key) for signer in signing.cosigners(runtime)]
    drills = [f"{DRILL}{key.hex()}" for key in signing.drill_keys(runtime).values()]
    if as_json:
        print_json({"keys": found, "drills": drills})
        return
    for one in (*found, *drills):
        console.print(one, markup=False)


def _bytes_of(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be read", where=str(file), expected="a file", found=str(error.strerror)
        ) from None


class _Intervals:
    """A line now and then: which source is read, how far."""

    def __init__(self) -> None:
        self._told = float("-inf")

    def __call__(self, source: str, interval: Interval, events: int) -> None:
        now = time.monotonic()
        if now - self._told >= _EVERY_SECONDS:
            self._told = now
            errors.print(
                f"{source}: up to {interval.end:%Y-%m-%d %H:%M}Z, {events:,} events", style="dim", markup=False
            )


def _documents(files: Sequence[Path]) -> Iterator[Document]:
    """Files that are to be sealed as well, by their names."""
    from holdfast.engine.audit.interface import Document

    for file in files:
        if file.exists() and not file.is_file():
            raise ConfigError("the document is no file", where=str(file), expected="a file", found="something else")
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        yield Document(f"attached/{file.name}", media_type, _bytes_of(file, "the document"))
