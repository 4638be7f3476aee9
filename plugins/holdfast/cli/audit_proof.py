"""``holdfast audit prove`` and ``check-proof``: one event, shown without the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.audit_answer import print_answer
from holdfast.cli.audit_options import KeyOption, NeedOption, SubjectKeysOption, subject_ring, trusted_keys
from holdfast.cli.output import JsonOption, console, print_json, reports_errors

app = typer.Typer()


@app.command("prove")
@reports_errors
def prove(
    event: Annotated[str, typer.Argument(help="An event's `metadata.uid`, or leaf:N.")],
    export_folder: Annotated[Path, typer.Option("--export", help="The export it is in.")],
    output: Annotated[Path, typer.Option("--output", help="An empty folder for the event and its proof.")],
    key: KeyOption = None,
    subject_keys: SubjectKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove one event: its bytes as received, as OCSF, and the hashes from it to the signed checkpoint.

    Of an event whose subject is protected only the leaf is shown, unless the subject's key is at hand.

    Exit codes: 0 proven, 2 there is no such event, 5 the export was tampered with, or 7 cannot be read whole: nothing
    of it can be proven.
    """
    from holdfast.engine.audit.privacy.certificates import certificates_at
    from holdfast.engine.audit.prove import find_event, prove_event, write_proof
    from holdfast.engine.audit.verify import verify_export

    verified = verify_export(export_folder, trusted=trusted_keys(key))
    if verified.manifest is None:
        print_answer(verified.answer)
        raise typer.Exit(verified.answer.exit_code)
    places = find_event(export_folder, verified.manifest, event)
    keys = subject_ring(subject_keys)
    proven = prove_event(
        export_folder,
        verified,
        places[0],
        subject_keys=keys.by_id() if keys else None,
        certificates=certificates_at(keys.stores[keys.first]) if keys else (),
    )
    write_proof(proven, export_folder, output)
    told = {
        "event": event,
        "leaf": proven.index,
        "size": proven.size,
        "hashes": len(proven.proof),
        "places": len(places),
        "folder": output,
        "protected": proven.protected is not None,
        "opened": proven.raw is not None,
        "shredded_at": proven.shredded.shredded_at.isoformat() if proven.shredded else None,
    }
    if as_json:
        print_json(told)
        return
    console.print(f"Leaf {proven.index:,} of {proven.size:,}, {len(proven.proof)} hashes; written to {output}")
    if proven.shredded:
        console.print(
            f"Its subject's key was shredded at {proven.shredded.shredded_at.isoformat()}: only its leaf is left"
        )
    elif proven.raw is None:
        console.print("Its subject is protected, and the key is not at hand: only its leaf is shown")
    if len(places) > 1:
        console.print(f"Its source gave it {len(places)} times; this is the first")


@app.command("check-proof")
@reports_errors
def check_proof(
    folder: Annotated[Path, typer.Argument(help="What `prove --output` or `select --output` wrote.")],
    key: KeyOption = None,
    need: NeedOption = None,
    export_folder: Annotated[
        list[Path] | None,
        typer.Option("--export", help="The exports of a selection: then it is shown that nothing was left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check one event's proof, or a selection, offline.

    Exit codes: 0 it holds, 2 bad input, 5 it does not, 6 what was selected from is incomplete, 7 it cannot be said
    whether it is, or no trusted key was given.
    """
    from holdfast.engine.audit.chain import exports_below, verify_exports
    from holdfast.engine.audit.prove import check_proof as checked
    from holdfast.engine.audit.selection.check import check_selection
    from holdfast.engine.audit.selection.documents import SELECTION

    trusted = trusted_keys(key)
    if (folder / SELECTION).exists():
        folders = exports_below(*(export_folder or ()))
        against = verify_exports(folders, trusted=trusted, needed=need)[1] if folders else []
        answer = check_selection(folder, trusted=trusted, needed=need, against=against)
    else:
        answer = checked(folder, trusted=trusted, needed=need)
    if as_json:
        print_json(answer.to_json())
    else:
        print_answer(answer)
    raise typer.Exit(answer.exit_code)
