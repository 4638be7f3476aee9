"""A second verifier of audit exports, written from `docs/formats/audit-export.md` and `docs/formats/ledger.md` alone.

It shares no code with Holdfast: the standard library, `cryptography` for two kinds of signature, `pyarrow` to read
Parquet. It is slow and plain, so that it can be read beside those pages. Left out: step 7 (the sources' own proofs:
CloudTrail's digests, the signatures of drills' evidence), and the signatures of RFC 3161 timestamps.

    python audit_second_verifier.py FOLDER … [--key KEY-OR-FILE …] [--need N]

Exit code: 0 fine, 5 tampered, 6 incomplete, 7 unknown.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import stat
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

EXIT = {"fine": 0, "tampered": 5, "incomplete": 6, "unknown": 7}
STATES = ("complete", "late", "unknown", "gap")  # from the best to the worst
VERDICTS = {"complete": "fine", "late": "incomplete", "unknown": "unknown", "gap": "incomplete"}
UNNAMED = ("manifest.json", "checkpoint", "range.json", "checkpoint.tsr")


class Broken(Exception):
    """Something is not what the pages say."""


REFUSALS = (Broken, ValueError, OSError, RecursionError, UnsupportedAlgorithm, pa.ArrowException)


def check(holds, what):
    if not holds:
        raise Broken(what)


# JSON: a value is described by a dict (exactly these fields), a list (any number of these), or a function.


def canonical(value):
    """RFC 8785, of values without fractions."""
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
        return b"{" + b",".join(canonical(key) + b":" + canonical(one) for key, one in pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    check(not isinstance(value, float), "no number of these documents has a fraction")
    return json.dumps(value, ensure_ascii=False).encode()


def described(value, as_what):
    if isinstance(as_what, dict):
        check(isinstance(value, dict) and set(value) == set(as_what), f"has not exactly the fields {list(as_what)}")
        return {name: described(value[name], one) for name, one in as_what.items()}
    if isinstance(as_what, list):
        check(isinstance(value, list), f"{value!r} is no list")
        return [described(one, as_what[0]) for one in value]
    return as_what(value)


def read_json(data, as_what):
    value = json.loads(data.decode())
    check(canonical(value) == data, "is not canonical JSON")
    return described(value, as_what)


def number(value):
    check(type(value) is int and 0 <= value < 2**53, f"{value!r} is no whole number from 0 on")
    return value


def text(value):
    check(isinstance(value, str), f"{value!r} is no text")
    return value


def texts(value):
    check(isinstance(value, dict), f"{value!r} is no object")
    return {name: text(one) for name, one in value.items()}


def digest(value):
    check(re.fullmatch("[0-9a-f]{64}", text(value)), f"{value!r} is no SHA-256")
    return bytes.fromhex(value)


def moment(value):
    check(
        re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}\.[0-9]{6}Z", text(value)), f"{value!r} is no time"
    )
    return datetime.fromisoformat(value)


def path(value):
    check(re.fullmatch(r"[A-Za-z0-9._=@+,/-]{1,900}", text(value)), f"{value!r} has other characters, or too many")
    check(all(part.strip(".") for part in value.split("/")), f"{value!r} has an empty part, or one of dots")
    check(value.lower() not in UNNAMED, f"{value} has no place in a manifest")
    return value


def one_of(*values):
    def is_one_of(value):
        check(value in values, f"{value!r} is none of {values}")
        return value

    return is_one_of


def or_null(as_what):
    return lambda value: None if value is None else described(value, as_what)


WINDOW = {"start": moment, "end": moment}
FILE = {"path": path, "sha256": digest, "size_bytes": number}
MANIFEST = {
    "format": one_of("holdfast.audit-export/1"), "origin": text, "seal": number, "sealed_at": moment,
    "sealed_by": text, "first_leaf": number, "size": number, "signers": [text],
    "previous": or_null({"seal": number, "size": number, "root": digest, "sealed_at": moment}),
    "retention": {
        "profiles": [text], "until": or_null(moment), "lock_mode": one_of("compliance", "governance", "none"),
    },
    "sources": [{
        "name": text, "kind": text, "state": one_of(*STATES), "window": or_null(WINDOW), "records": number,
        "coverage": path,
    }],
    "segments": [{
        "source": text, "events": FILE, "objects": FILE, "rows": number, "object_count": number, "first_leaf": number,
    }],
    "documents": [{"file": FILE, "leaf": number, "media_type": text, "source": text, "about": texts}],
}  # fmt: skip
RANGE = {"format": one_of("holdfast.range/1"), "left": [digest], "before": [digest]}
FINDING = {"code": text, "detail": text, "where": text, "state": one_of(*STATES)}
INTERVAL = {
    **WINDOW, "state": one_of(*STATES), "proof": text, "expected": or_null(number), "observed": number,
    "objects": number, "records": number, "findings": [FINDING],
}  # fmt: skip
COVERAGE = {
    "format": one_of("holdfast.coverage/1"), "source": text, "kind": text, "state": one_of(*STATES),
    "intervals": [INTERVAL],
}  # fmt: skip

# The tree of RFC 9162.


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaf(kind, data):
    return sha256(b"\x00", kind, sha256(data))


def append(compact, size, leaves):
    """The compact range of `size` leaves, one hash for each bit set in `size`, with more leaves at its end."""
    check(len(compact) == size.bit_count(), f"there are {len(compact)} hashes for {size} leaves")
    compact = list(compact)
    for one in leaves:
        before, size = size, size + 1
        while before % 2:
            one, before = sha256(b"\x01", compact.pop(), one), before // 2
        compact.append(one)
    return compact


def fold(compact):
    root = compact[-1] if compact else sha256()
    for one in reversed(compact[:-1]):
        root = sha256(b"\x01", one, root)
    return root


# Signed notes.


def plain_base64(value):
    data = base64.b64decode(value, validate=True)
    check(base64.b64encode(data).decode() == value, f"{value!r} is not the one base64 of its bytes")
    return data


def parse_key(line):
    """Name, id, public key, and what verifies a signature of a text."""
    found = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", line)
    check(found, f"{line!r} is no verifier key")
    name, blob = found[1], plain_base64(found[3])
    kind, public = blob[:1], blob[1:]
    if kind == b"\x01":
        key_id = sha256(name.encode(), b"\n", blob)[:4]
        verify = ed25519.Ed25519PublicKey.from_public_bytes(public).verify
    else:
        check(kind == b"\x02", f"{name} is a key of an unknown kind")
        key_id, curve = sha256(public)[:4], serialization.load_der_public_key(public)
        is_p256 = isinstance(curve, ec.EllipticCurvePublicKey) and isinstance(curve.curve, ec.SECP256R1)
        check(is_p256, f"{name} is no ECDSA key on P-256")
        plain = curve.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        check(plain == public, f"{name} is not in DER with an uncompressed point")

        def verify(signature, data):
            curve.verify(signature, data, ec.ECDSA(hashes.SHA256()))

    check(key_id.hex() == found[2], f"{name}: the id is not the key's")
    return name, key_id, public, verify


class Note:
    """A signed note with a checkpoint."""

    def __init__(self, data):
        check(len(data) <= 262_144, "is too long")
        head, _, tail = data.decode().rpartition("\n\n")
        check(all(letter >= " " or letter == "\n" for letter in head + tail), "has control characters")
        self.text, self.signatures = (head + "\n").encode(), []
        check(tail.endswith("\n") and tail.count("\n") <= 100, "is not followed by 1 to 100 signatures")
        for line in tail[:-1].split("\n"):
            parts = re.fullmatch(r"— ([^\s+]+) (\S+)", line)
            check(parts, f"{line!r} is no signature line")
            blob = plain_base64(parts[2])
            check(len(blob) > 4, "has an empty signature")
            self.signatures.append((parts[1], blob[:4], blob[4:]))
        lines = head.split("\n")
        check(len(lines) >= 3 and all(lines), "has an empty line, or fewer than three")
        check(re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]) and int(lines[1]) < 2**63, f"{lines[1]!r} is no size")
        self.origin, self.size, self.root = lines[0], int(lines[1]), plain_base64(lines[2])
        check(len(self.root) == 32, "the root is no SHA-256")

    def signed_by(self, lines):
        """How many of these keys signed it; a wrong signature of one of them is refused."""
        keys = [parse_key(line) for line in lines]
        check(len({public for _, _, public, _ in keys}) == len(keys), "one public key is there twice")
        check(len({key[:2] for key in keys}) == len(keys), "two keys have one name and id")
        count = 0
        for name, key_id, _, verify in keys:
            made = [signature for whose, its_id, signature in self.signatures if (whose, its_id) == (name, key_id)]
            for signature in made:
                try:
                    verify(signature, self.text)
                except InvalidSignature:
                    raise Broken(f"the signature of {name} does not verify") from None
            count += bool(made)
        return count


# One export.


def unread(error):
    raise error


def files_below(folder):
    """Path → file of all that lies there; a link or a device is refused."""
    found = {}
    for where, folders, names in os.walk(folder, onerror=unread):
        for place in (Path(where, name) for name in folders + names):
            mode = place.lstat().st_mode
            check(stat.S_ISDIR(mode) or stat.S_ISREG(mode), f"{place} is neither a file nor a folder")
            if stat.S_ISREG(mode):
                found[place.relative_to(folder).as_posix()] = place
    return found


def parse_manifest(data):
    row = read_json(data, MANIFEST)
    at, previous, names = row["first_leaf"], row["previous"], [one["name"] for one in row["sources"]]
    for one in row["segments"]:
        check(one["first_leaf"] == at, f"{one['events']['path']} is not where the order of leaves has it")
        check(one["source"] in names, f"{one['source']!r} is no source")
        at += one["rows"]
    for number_of, one in enumerate(row["documents"]):
        check(one["leaf"] == at + number_of, f"{one['file']['path']} is not where the order of leaves has it")
        check(one["source"] in ("", *names), f"{one['source']!r} is no source")
    check(row["size"] == at + len(row["documents"]) + 1, "the manifest is not the last leaf")
    check(len(set(names)) == len(names), "a source is named twice")
    check(row["signers"], "nobody signed it")
    check((previous["seal"] + 1 if previous else 0) == row["seal"], "it does not follow the previous seal")
    check((previous["size"] if previous else 0) == row["first_leaf"], "it begins where the previous did not end")
    check(not previous or previous["sealed_at"] <= row["sealed_at"], "it was sealed before the previous one")
    for window in [one["window"] for one in row["sources"] if one["window"]]:
        check(window["start"] <= window["end"], "a window ends before it starts")
        check(window["end"] - row["sealed_at"] <= timedelta(minutes=5), "a window ends in the future")
    return row


def check_files(manifest, files):
    entries = [one["file"] for one in manifest["documents"]]
    entries += [one[part] for one in manifest["segments"] for part in ("events", "objects")]
    paths = [one["path"] for one in entries]
    check(len({one.lower() for one in paths}) == len(paths), "a path is there twice, case ignored")
    check(set(files) - set(UNNAMED) == set(paths), f"other files: {set(files) ^ set(paths)}")
    for one in entries:
        file = files[one["path"]]
        check(file.stat().st_size == one["size_bytes"], f"{file} is not of {one['size_bytes']} bytes")
        with file.open("rb") as opened:
            check(hashlib.file_digest(opened, "sha256").digest() == one["sha256"], f"{file} is not what was sealed")


def column(file, name, is_kind, rows):
    """A column of a Parquet file, whole."""
    read = pq.ParquetFile(file)
    check(read.schema_arrow.names.count(name) == 1, f"{file} has not one column {name}")
    kind = read.schema_arrow.field(name).type
    check(is_kind(kind), f"{file}: {name} is {kind}")
    check(read.metadata.num_rows == rows, f"{file} has {read.metadata.num_rows} rows, not {rows}")
    values = [one for batch in read.iter_batches(columns=[name]) for one in batch.column(name).to_pylist()]
    check(None not in values, f"{file}: {name} is null somewhere")
    return values


def segment_leaves(segment, files):
    events, objects = files[segment["events"]["path"]], files[segment["objects"]["path"]]
    raw = column(events, "raw", lambda kind: kind in (pa.binary(), pa.large_binary()), segment["rows"])
    counts = column(objects, "rows", pa.types.is_int64, segment["object_count"])
    check(sum(map(number, counts)) == len(raw), f"{objects} is of other events")
    return [leaf(b"\x01", one) for one in raw]


def check_coverage(data, source):
    """(start, end) → the states told of an interval."""
    row = read_json(data, COVERAGE)
    check((row["source"], row["kind"]) == (source["name"], source["kind"]), "it is of another source")
    told = {}
    for one in row["intervals"]:
        states = {"complete"} | {finding["state"] for finding in one["findings"]}
        if one["proof"] == "none" or one["expected"] is None:
            states.add("unknown")
        elif one["observed"] < one["expected"] and states == {"complete"}:
            states.add("gap")
        worst = max(states, key=STATES.index)
        check(one["state"] == worst, f"from {one['start']} it is {worst}, not {one['state']}")
        span = one["start"], one["end"]
        check(span[0] < span[1] and span not in told, "an interval is empty or told twice")
        told[span] = states
    worst = max((one["state"] for one in row["intervals"]), key=STATES.index, default="unknown")
    check(row["state"] == worst == source["state"], f"it is {worst}, not what it says or the manifest says")
    return told


class Export:
    """An export whose integrity holds: its manifest, its root, and what its coverage tells."""

    def __init__(self, folder, trusted, needed):
        files = files_below(folder)
        check(set(UNNAMED[:3]) <= set(files), f"one of {UNNAMED[:3]} is missing")
        data, note = files["manifest.json"].read_bytes(), Note(files["checkpoint"].read_bytes())
        ranges, row = read_json(files["range.json"].read_bytes(), RANGE), parse_manifest(data)
        self.manifest, self.root = row, note.root
        stamp = files["checkpoint.tsr"].read_bytes() if "checkpoint.tsr" in files else None
        check(stamp is None or sha256(files["checkpoint"].read_bytes()) in stamp, "the timestamp is of something else")
        check(note.signed_by(row["signers"]) == len(row["signers"]), "not all signers of the manifest signed")
        check(not trusted or note.signed_by(trusted) >= needed, "too few trusted keys signed")
        check((note.origin, note.size) == (row["origin"], row["size"]), "the checkpoint is not the manifest's")
        with_manifest = append(ranges["before"], row["size"] - 1, [leaf(b"\x03", data)])
        check(fold(with_manifest) == note.root, "the manifest does not lead to the signed root")
        previous_root = row["previous"]["root"] if row["previous"] else sha256()
        check(fold(ranges["left"]) == previous_root, "the leaves before do not lead to the previous root")
        check_files(row, files)
        leaves = [one for segment in row["segments"] for one in segment_leaves(segment, files)]
        leaves += [leaf(b"\x02", files[one["file"]["path"]].read_bytes()) for one in row["documents"]]
        made = append(ranges["left"], row["first_leaf"], leaves)
        check(made == ranges["before"], "the events and documents do not lead to the signed root")
        held = {one["file"]["path"] for one in row["documents"]}
        check(all(one["coverage"] in held for one in row["sources"]), "a coverage is no document")
        self.told = {one["name"]: check_coverage(files[one["coverage"]].read_bytes(), one) for one in row["sources"]}


# Several exports.


def compare(exports):
    """What is wrong between exports of one log, in order: pairs of verdict and reason."""
    ends = {}
    for before, export in zip([None, *exports], exports, strict=False):
        row, at = export.manifest, f"seal {export.manifest['seal']}"
        if before:
            last = before.manifest
            previous = {"seal": last["seal"], "size": last["size"], "root": before.root, "sealed_at": last["sealed_at"]}
            if row["origin"] != last["origin"]:
                yield "tampered", f"{at} is of another log"
            elif row["seal"] == last["seal"] and export.root != before.root:
                yield "tampered", f"two exports are {at}"
            elif row["seal"] == last["seal"]:
                continue
            elif row["seal"] != last["seal"] + 1:
                yield "incomplete", f"the exports between seal {last['seal']} and {at} are missing"
                ends = {}
            elif row["previous"] != previous:
                yield "tampered", f"{at} does not go on from the one before"
        for source in [one for one in row["sources"] if one["window"]]:
            name, window = source["name"], source["window"]
            end = ends.get(name, window["start"])
            if window["start"] != end:
                verdict = "incomplete" if window["start"] > end else "tampered"
                yield verdict, f"{at}: the window of {name} does not begin where its last one ended"
            ends[name] = window["end"]
    asked = [{one["name"] for one in export.manifest["sources"] if one["window"]} for export in exports]
    for name in set().union(*asked) - asked[-1] if asked else ():
        yield "incomplete", f"the newest export lacks {name}, which was asked before"


def verify(folders, trusted, needed=None):
    """The verdict on exports of one log, and its reasons as pairs of verdict and text."""
    reasons, exports, told = [], [], {}
    reasons += [] if trusted else [("unknown", "no trusted key was given")]
    for folder in folders:
        try:
            exports.append(Export(Path(folder), trusted, len(trusted) if needed is None else needed))
        except REFUSALS as error:
            reasons.append(("unknown" if isinstance(error, PermissionError) else "tampered", f"{folder}: {error}"))
    exports.sort(key=lambda one: one.manifest["seal"])
    reasons += compare(exports)
    for export in exports:
        for source, intervals in export.told.items():
            told.setdefault(source, {}).update(intervals)
    for source, intervals in told.items():
        reasons += [("unknown", f"{source} tells of nothing")] if not intervals else []
        for (start, end), states in intervals.items():
            reasons += [(VERDICTS[one], f"{source} is {one} from {start} to {end}") for one in states - {"complete"}]
    return min((verdict for verdict, _ in reasons), key=EXIT.get, default="fine"), reasons


def main():
    parser = argparse.ArgumentParser(description="Verify audit exports of one log.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--key", action="append", default=[], help="a verifier key, or a file with one a line")
    parser.add_argument("--need", type=int, help="so many trusted keys must have signed; by default all")
    given = parser.parse_args()
    keys = [one for key in given.key for one in (Path(key).read_text().split() if Path(key).is_file() else [key])]
    verdict, reasons = verify(given.folders, sorted(set(keys)), given.need)
    print("\n".join([verdict, *(f"{how}: {why}" for how, why in reasons)]))
    return EXIT[verdict]


if __name__ == "__main__":
    sys.exit(main())
