"""A second verifier of audit exports, written from `docs/formats/audit-export.md` and `docs/formats/ledger.md` alone.

It shares no code with Holdfast: the standard library, `cryptography` for two kinds of signature, `pyarrow` to read
Parquet. It is slow and plain, so that it can be read beside those pages. Left out: step 7 (CloudTrail's own digests)
and RFC 3161 timestamps.

    python audit_second_verifier.py FOLDER … [--key KEY-OR-FILE …] [--quorum N]

Exit code: 0 fine, 5 tampered, 6 incomplete, 7 unknown.
"""

import argparse
import base64
import binascii
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
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

EXIT = {"fine": 0, "tampered": 5, "incomplete": 6, "unknown": 7}
STATES = ("complete", "late", "unknown", "gap")  # from the best to the worst
UNNAMED = ("manifest.json", "checkpoint", "range.json", "checkpoint.tsr")


class Broken(Exception):
    """Something is not what the pages say."""


def check(holds, what):
    if not holds:
        raise Broken(what)


# -- JSON ---------------------------------------------------------------------------------------------------------


def canonical(value):
    """RFC 8785, of values without fractions."""

    def ordered(one):
        if isinstance(one, dict):
            return {key: ordered(one[key]) for key in sorted(one, key=lambda key: key.encode("utf-16-be"))}
        if isinstance(one, list):
            return [ordered(item) for item in one]
        return one

    return json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":")).encode()


def read_json(data, *fields):
    """An object in canonical JSON that has exactly these fields."""

    def refuse(text):
        raise ValueError(f"{text} is no whole number")

    value = json.loads(data.decode(), parse_float=refuse, parse_constant=refuse)
    check(canonical(value) == data, "is not canonical JSON")
    return fields_of(value, *fields)


def fields_of(value, *fields):
    check(isinstance(value, dict) and set(value) == set(fields), f"has not exactly the fields {fields}")
    return value


def number(value):
    check(type(value) is int and 0 <= value < 2**53, f"{value!r} is no number from 0 to 2^53")
    return value


def text(value):
    check(isinstance(value, str), f"{value!r} is no text")
    return value


def listed(value):
    check(isinstance(value, list), f"{value!r} is no list")
    return value


def digest(value):
    check(re.fullmatch("[0-9a-f]{64}", text(value)), f"{value!r} is no SHA-256")
    return bytes.fromhex(value)


def moment(value):
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text(value), re.ASCII), f"{value!r} is no time")
    return datetime.fromisoformat(value)


def window(value):
    fields_of(value, "start", "end")
    start, end = moment(value["start"]), moment(value["end"])
    check(start <= end, "a window ends before it starts")
    return start, end


# -- the tree (RFC 9162) ------------------------------------------------------------------------------------------


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaf(kind, data):
    return sha256(b"\x00", bytes([kind]), sha256(data))


def node(left, right):
    return sha256(b"\x01", left, right)


def append(compact, size, leaves):
    """The compact range of `size` leaves, with more leaves at its end."""
    compact = list(compact)
    for one in leaves:
        before = size
        while before % 2:
            one = node(compact.pop(), one)
            before //= 2
        compact.append(one)
        size += 1
    return compact


def fold(compact):
    if not compact:
        return sha256()
    root = compact[-1]
    for one in reversed(compact[:-1]):
        root = node(one, root)
    return root


def compact_range(value, size):
    """The compact range of `size` leaves, as it is written: one hash for each bit that is set in `size`."""
    check(len(listed(value)) == size.bit_count(), f"has {len(value)} hashes for {size} leaves")
    return [digest(one) for one in value]


# -- signed notes -------------------------------------------------------------------------------------------------


def plain_base64(value):
    data = base64.b64decode(value, validate=True)
    check(base64.b64encode(data).decode() == value, f"{value!r} is not the one base64 of its bytes")
    return data


def parse_key(line):
    """A verifier key as its name, its id, and a function that verifies a signature of a text."""
    check(re.fullmatch(r"[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", text(line)), f"{line!r} is no verifier key")
    name, key_id, key = line.split("+", 2)
    kind, public = plain_base64(key)[:1], plain_base64(key)[1:]
    if kind == b"\x01":
        own_id = sha256(name.encode(), b"\n", kind, public)[:4]
        ed = ed25519.Ed25519PublicKey.from_public_bytes(public)

        def verify(signature, data):
            ed.verify(signature, data)
    else:
        check(kind == b"\x02", f"{name}: a key of unknown kind")
        own_id = sha256(public)[:4]
        curve = serialization.load_der_public_key(public)
        check(isinstance(curve, ec.EllipticCurvePublicKey), f"{name}: not an ECDSA key")
        check(isinstance(curve.curve, ec.SECP256R1), f"{name}: not on P-256")
        der = curve.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        check(der == public, f"{name}: not an uncompressed point in DER")

        def verify(signature, data):
            curve.verify(signature, data, ec.ECDSA(hashes.SHA256()))

    check(own_id.hex() == key_id, f"{name}: the id is not the key's")
    return name, own_id, verify


class Note:
    """A signed note with a checkpoint."""

    def __init__(self, data):
        check(len(data) <= 262_144, "is too long")
        whole = data.decode()
        check(not any((ord(c) < 32 and c != "\n") or ord(c) == 127 for c in whole), "has control characters")
        head, found, tail = whole.rpartition("\n\n")
        check(found and tail.endswith("\n"), "is no signed note")
        self.text = (head + "\n").encode()
        lines = tail[:-1].split("\n")
        check(len(lines) <= 100, "has more than 100 signatures")
        self.signatures = []
        for line in lines:
            parts = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
            check(parts, f"{line!r} is no signature line")
            blob = plain_base64(parts[2])
            check(len(blob) > 4, "has an empty signature")
            self.signatures.append((parts[1], blob[:4], blob[4:]))
        origin, size, root, *more = head.split("\n")
        check(origin and all(more), "has an empty line")
        check(re.fullmatch("0|[1-9][0-9]{0,18}", size, re.ASCII) and int(size) < 2**63, f"{size!r} is no size")
        self.origin, self.size, self.root = origin, int(size), plain_base64(root)
        check(len(self.root) == 32, "the root is no SHA-256")

    def signed_by(self, keys):
        """How many of these keys signed it; a signature of one of them that does not verify is refused."""
        signed = set()
        for line in set(keys):
            name, key_id, verify = parse_key(line)
            for whose, whose_id, signature in self.signatures:
                if (whose, whose_id) == (name, key_id):
                    try:
                        verify(signature, self.text)
                    except InvalidSignature:
                        raise Broken(f"the signature of {name} does not verify") from None
                    signed.add(line)
        return len(signed)


# -- one export ---------------------------------------------------------------------------------------------------


def files_below(folder):
    """Path → file of all that lies there; a link or a device is refused."""
    found = {}
    for where, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(where, name)
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            check(stat.S_ISDIR(mode) or stat.S_ISREG(mode), f"{relative} is neither a file nor a folder")
            if stat.S_ISREG(mode):
                found[relative] = path
    return found


def file_entry(value):
    fields_of(value, "path", "sha256", "size_bytes")
    path = text(value["path"])
    check(re.fullmatch(r"[A-Za-z0-9._=@+,/-]{1,900}", path), f"{path!r} has other characters, or is too long")
    check(all(part.strip(".") for part in path.split("/")), f"{path!r} has an empty part, or one of dots")
    check(path.lower() not in UNNAMED, f"{path} has no place in a manifest")
    digest(value["sha256"]), number(value["size_bytes"])
    return value


def segment_leaves(segment, files):
    raw = pq.ParquetFile(files[segment["events"]["path"]])
    kind = raw.schema_arrow.field("raw").type
    check(pa.types.is_binary(kind) or pa.types.is_large_binary(kind), f"raw is {kind}, not binary")
    check(raw.metadata.num_rows == segment["rows"], "has other rows than the manifest says")
    leaves = []
    for batch in raw.iter_batches(columns=["raw"]):
        for one in batch.column(0).to_pylist():
            check(one is not None, "raw is null")
            leaves.append(leaf(1, one))
    objects = pq.ParquetFile(files[segment["objects"]["path"]])
    check(objects.metadata.num_rows == segment["object_count"], "has other objects than the manifest says")
    counts = objects.read(columns=["rows"]).column(0).to_pylist()
    check(all(number(one) >= 0 for one in counts) and sum(counts) == len(leaves), "objects hold other rows")
    return leaves


def coverage_states(data, source):
    """Interval → state of a source's coverage, once it is what the findings bear out."""
    row = read_json(data, "format", "source", "kind", "state", "intervals")
    check(row["format"] == "holdfast.coverage/1", "is no coverage")
    check((row["source"], row["kind"]) == (source["name"], source["kind"]), "is the coverage of another source")
    states = {}
    for one in listed(row["intervals"]):
        fields_of(one, "start", "end", "state", "proof", "expected", "observed", "objects", "records", "findings")
        number(one["observed"]), number(one["objects"]), number(one["records"])
        worst = 0
        for finding in listed(one["findings"]):
            fields_of(finding, "code", "detail", "where", "state")
            worst = max(worst, STATES.index(finding["state"]))
        if one["expected"] is not None and one["observed"] < number(one["expected"]) and worst == 0:
            worst = STATES.index("gap")
        if text(one["proof"]) == "none" or one["expected"] is None:
            worst = max(worst, STATES.index("unknown"))
        check(one["state"] == STATES[worst], f"from {one['start']} it is {STATES[worst]}, not {one['state']}")
        states[window({"start": one["start"], "end": one["end"]})] = one["state"]
    state = max(states.values(), key=STATES.index, default="unknown")
    check(row["state"] == state, f"is {state}, not {row['state']}")
    check(source["state"] == state, f"is {state}, not {source['state']} as the manifest says")
    return states


def parse_manifest(data):
    row = read_json(
        data, "format", "origin", "seal", "sealed_at", "sealed_by", "first_leaf", "size", "previous", "signers",
        "retention", "sources", "segments", "documents",
    )  # fmt: skip
    check(row["format"] == "holdfast.audit-export/1", "is no manifest of an export")
    check(number(row["first_leaf"]) < number(row["size"]), "adds no leaf")
    check(listed(row["signers"]), "names no signer")
    at = row["first_leaf"]
    for one in listed(row["segments"]):
        fields_of(one, "source", "events", "objects", "rows", "object_count", "first_leaf")
        file_entry(one["events"]), file_entry(one["objects"]), number(one["object_count"])
        check(one["first_leaf"] == at, f"{one['events']['path']} is not where the order of leaves has it")
        at += number(one["rows"])
    for one in listed(row["documents"]):
        fields_of(one, "file", "leaf", "media_type", "source", "about")
        file_entry(one["file"])
        check(one["leaf"] == at, f"{one['file']['path']} is not where the order of leaves has it")
        at += 1
    check(row["size"] == at + 1, "the manifest is not the last leaf")
    for one in listed(row["sources"]):
        fields_of(one, "name", "kind", "state", "window", "records", "coverage")
    names = [text(one["name"]) for one in row["sources"]]
    check(len(set(names)) == len(names), "names a source twice")
    for one in row["segments"] + row["documents"]:
        check(one["source"] in names or (one["source"] == "" and "file" in one), f"{one['source']!r} is no source")
    if row["previous"] is None:
        check((number(row["seal"]), row["first_leaf"]) == (0, 0), "has no previous seal, and is not the first")
    else:
        fields_of(row["previous"], "seal", "size", "root", "sealed_at")
        check(row["previous"]["seal"] == number(row["seal"]) - 1, "the previous seal is not the one before")
        check(row["previous"]["size"] == row["first_leaf"], "does not begin where the previous one ends")
    return row


class Export:
    """An export whose integrity holds: its manifest, its checkpoint, and what its coverage says."""

    def __init__(self, folder, trusted, quorum):
        files = files_below(folder)
        check(set(UNNAMED[:3]) <= set(files), f"one of {UNNAMED[:3]} is missing")
        data = files["manifest.json"].read_bytes()
        self.note, self.manifest = Note(files["checkpoint"].read_bytes()), parse_manifest(data)
        ranges = read_json(files["range.json"].read_bytes(), "format", "left", "before")
        check(ranges["format"] == "holdfast.range/1", "range.json is of another format")
        self.verify_checkpoint(data, ranges, trusted, quorum)
        self.verify_files(files)
        leaves = []
        for segment in self.manifest["segments"]:
            leaves += segment_leaves(segment, files)
        leaves += [leaf(2, files[one["file"]["path"]].read_bytes()) for one in self.manifest["documents"]]
        first = self.manifest["first_leaf"]
        made = append(compact_range(ranges["left"], first), first, leaves)
        check([one.hex() for one in made] == ranges["before"], "the leaves do not lead to the signed root")
        self.states = {}
        about = {one["file"]["path"]: one["source"] for one in self.manifest["documents"]}
        for source in self.manifest["sources"]:
            check(about.get(source["coverage"]) == source["name"], f"{source['name']} has no coverage of its own")
            self.states[source["name"]] = coverage_states(files[source["coverage"]].read_bytes(), source)

    def verify_checkpoint(self, data, ranges, trusted, quorum):
        row, note = self.manifest, self.note
        check(note.signed_by(row["signers"]) == len(set(row["signers"])), "a signer of the manifest did not sign")
        check(not trusted or note.signed_by(trusted) >= quorum, "too few trusted keys signed")
        check((note.origin, note.size) == (row["origin"], row["size"]), "the checkpoint is not the manifest's")
        before = compact_range(ranges["before"], row["size"] - 1)
        root = fold(append(before, row["size"] - 1, [leaf(3, data)]))
        check(root == note.root, "the manifest does not lead to the signed root")
        left = compact_range(ranges["left"], row["first_leaf"])
        sealed_at, previous = moment(row["sealed_at"]), row["previous"]
        if previous is not None:
            check(fold(left) == digest(previous["root"]), "the leaves before do not lead to the previous root")
            check(moment(previous["sealed_at"]) <= sealed_at, "was sealed before the previous one")
        for source in row["sources"]:
            if source["window"] is not None:
                check(window(source["window"])[1] <= sealed_at + timedelta(minutes=5), "a window ends in the future")

    def verify_files(self, files):
        entries = [one["file"] for one in self.manifest["documents"]]
        entries += [one[part] for one in self.manifest["segments"] for part in ("events", "objects")]
        paths = [one["path"] for one in entries]
        check(len({path.lower() for path in paths}) == len(paths), "two paths differ by case only, or not at all")
        check(set(files) - set(UNNAMED) == set(paths), f"more or other files: {set(files) ^ set(paths)}")
        for one in entries:
            size = files[one["path"]].stat().st_size
            check(size == one["size_bytes"], f"{one['path']} has {size} bytes, not {one['size_bytes']}")
            with files[one["path"]].open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            check(found == one["sha256"], f"{one['path']} is not what was sealed")


# -- several exports ----------------------------------------------------------------------------------------------


def compare(exports):
    """What is wrong between exports of one log, sorted by seal: pairs of verdict and reason."""
    ends = {}
    for number_before, export in enumerate(exports):
        row = export.manifest
        before = exports[number_before - 1] if number_before else None
        if before:
            at, last = f"seal {row['seal']}", before.manifest
            if last["origin"] != row["origin"]:
                yield "tampered", f"{at}: is of another log"
            elif row["seal"] == last["seal"]:
                if (before.note.size, before.note.root) != (export.note.size, export.note.root):
                    yield "tampered", f"{at}: two exports claim this seal"
                continue
            elif row["seal"] > last["seal"] + 1:
                yield "incomplete", f"{at}: the exports after seal {last['seal']} are missing"
                ends = {}
            else:
                previous = {key: last[key] for key in ("seal", "size", "sealed_at")} | {"root": before.note.root.hex()}
                if row["previous"] != previous:
                    yield "tampered", f"{at}: goes on from another export than the one before"
        for source in row["sources"]:
            if source["window"] is not None:
                start, end = window(source["window"])
                if ends.get(source["name"], start) != start:
                    yield "incomplete", f"seal {row['seal']}: {source['name']} does not begin where it ended"
                ends[source["name"]] = end


def verify(folders, trusted, quorum=1):
    """The verdict on exports of one log, and its reasons as pairs of verdict and text."""
    reasons, exports = [], []
    if not trusted:
        reasons.append(("unknown", "no trusted key was given"))
    for folder in folders:
        try:
            exports.append(Export(Path(folder), trusted, quorum))
        except (
            Broken,
            ValueError,
            KeyError,
            TypeError,
            OSError,
            RecursionError,
            binascii.Error,
            pa.ArrowException,
        ) as e:
            reasons.append(("tampered", f"{folder}: {type(e).__name__}: {e}"))
    exports.sort(key=lambda one: one.manifest["seal"])
    reasons += compare(exports)
    newest, none_told = {}, {}
    for export in exports:
        for source, states in export.states.items():
            none_told[source] = not states and none_told.get(source, True)
            newest.update({(source, *interval): state for interval, state in states.items()})
    for (source, start, end), state in newest.items():
        if state != "complete":
            verdict = "unknown" if state == "unknown" else "incomplete"
            reasons.append((verdict, f"{source} is {state} from {start} to {end}"))
    reasons += [("unknown", f"{source} told of no interval") for source, none in none_told.items() if none]
    found = {one for one, _ in reasons}
    return next((one for one in ("tampered", "incomplete", "unknown") if one in found), "fine"), reasons


def main():
    parser = argparse.ArgumentParser(description="Verify audit exports of one log.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--key", action="append", default=[], help="a verifier key, or a file with one a line")
    parser.add_argument("--quorum", type=int, default=1)
    given = parser.parse_args()
    keys = [one for key in given.key for one in (Path(key).read_text().split() if Path(key).is_file() else [key])]
    verdict, reasons = verify(given.folders, keys, given.quorum)
    print("\n".join([verdict, *(f"{how}: {why}" for how, why in reasons)]))
    return EXIT[verdict]


if __name__ == "__main__":
    sys.exit(main())
