"""FOCUS files of every version and form are read alike, to the last digit, and what is wrong is told with its row."""

from __future__ import annotations

import gzip
import io
import random
from decimal import Context, Decimal
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_world import COLUMNS, as_csv, as_parquet, aws_lines, gcp_lines, line
from holdfast.engine.cost.columns import SCHEMA
from holdfast.engine.cost.errors import BillDamaged
from holdfast.engine.cost.focus import read_focus
from holdfast.engine.cost.tags import tag_values

LINES = [*aws_lines(), *gcp_lines()]


def read(data: bytes, **settings: object) -> pa.Table:
    return read_focus(data, name="file", export="bill", **settings)  # type: ignore[arg-type]


def exact_sum(amounts: list[Decimal]) -> Decimal:
    return reduce(Context(prec=60).add, amounts, Decimal(0))


@pytest.mark.parametrize("version", sorted(COLUMNS))
@pytest.mark.parametrize("form", ["aws", "bigquery", "csv", "csv.gz"])
def test_every_version_in_every_form_gives_the_same_lines(version, form):
    if form.startswith("csv"):
        found = read(as_csv(LINES, version, zipped=form == "csv.gz"))
    else:
        found = read(as_parquet(LINES, version, how=form))
    assert found.schema.equals(SCHEMA)
    assert set(found["x_FocusVersion"].to_pylist()) == {version}
    for name in ("BilledCost", "EffectiveCost", "ListCost"):
        expected = [one[name] for one in LINES]
        if form == "aws":  # a double carries 15 digits, which is all these have, but for one
            expected = [Decimal(repr(float(one))) for one in expected]
        assert found[name].to_pylist() == expected
    assert found["ProviderName"].to_pylist() == [one["ProviderName"] for one in LINES]
    assert [dict(one) for one in found["Tags"].to_pylist()] == [dict(one["Tags"]) for one in LINES]
    first = 2 if form.startswith("csv") else 1
    assert found["x_SourceRow"].to_pylist() == list(range(first, first + len(LINES)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.decimals(min_value=-(10**15), max_value=10**15, places=18, allow_nan=False, allow_infinity=False), min_size=1
    )
)
def test_money_in_text_is_exact_to_eighteen_places(amounts):
    found = read(as_csv([line(amount) for amount in amounts]))
    assert found["EffectiveCost"].to_pylist() == amounts
    assert pc.sum(found["EffectiveCost"]).as_py() == exact_sum(amounts)


def test_a_sum_of_tenths_is_no_float():
    found = read(as_parquet([line("0.1")] * 3))
    assert pc.sum(found["BilledCost"]).as_py() == Decimal("0.3")


def test_scientific_notation_and_more_digits_than_are_kept_are_read():
    data = as_csv([line("1")]).replace(b",1,", b",1.25E-3,", 1)
    assert Decimal("0.00125") in read(data)["BilledCost"].to_pylist()
    long = as_csv([line("0.7777")]).replace(b"0.7777", b"0.1234567890123456785")
    assert read(long)["BilledCost"].to_pylist() == [Decimal("0.123456789012345678")]


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        (b"0.7777", b"0,7777", "row 3", "number of cells"),
        (b"0.7777", b"abc", "row 3: BilledCost", "a decimal number"),
        (b"0.7777", b"NaN", "row 3: BilledCost", "a decimal number"),
        (b"0.7777", b"1e30", "row 3: BilledCost", "below 10^20"),
        (b"0.7777", b"", "row 3: BilledCost", "found 'nothing'"),
        (b",CHF,", b",Franken,", "row 3: BillingCurrency", "three capital letters"),
        (b"2026-10-03T00:00:00Z", b"03.10.2026", "row 3: ChargePeriodStart", "a time as"),
        (b'"{""a"": ""b""}"', b'"{""a"": {}}"', "row 3: Tags", "a map of tags"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_row(old, new, where, said):
    from datetime import UTC, datetime

    odd = line(
        "0.7777", currency="CHF", start=datetime(2026, 10, 3, tzinfo=UTC), tags={"a": "b"}, listed="1", billed="0.7777"
    )
    data = as_csv([line("1"), odd, line("2")])
    assert old in data
    with pytest.raises(BillDamaged) as caught:
        read(data.replace(old, new))
    assert where in str(caught.value.where)
    assert said in str(caught.value)
    assert "file" in str(caught.value.where)


def test_what_is_no_focus_export_says_which_columns_it_lacks():
    with pytest.raises(BillDamaged, match="EffectiveCost"):
        read(b"lineItem/UsageAmount,BilledCost\n1,2\n")
    with pytest.raises(BillDamaged, match="the file is empty"):
        read(b"")
    with pytest.raises(BillDamaged, match="a Parquet file cannot be read"):
        read(b"PAR1" + b"\0" * 100)
    with pytest.raises(BillDamaged, match="cannot be read"):
        read(as_csv(LINES, zipped=True)[:-30])
    with pytest.raises(BillDamaged, match="a column stands twice"):
        read(as_csv(LINES).replace(b"BilledCost", b"ListCost", 1))


def test_bombs_are_refused_before_they_are_in_memory():
    header, _, row = as_csv([line("1")]).partition(b"\r\n")
    bomb = gzip.compress(header + b"\r\n" + row * 80_000, 9)
    assert len(bomb) < 1024 * 1024
    with pytest.raises(BillDamaged, match="inflates without measure"):
        read(bomb, most_file_mib=1)
    endless = gzip.compress(b"BilledCost" * 1_000_000)
    with pytest.raises(BillDamaged, match="the header has no end"):
        read(endless)
    with pytest.raises(BillDamaged, match="too many columns"):
        read(b",".join(b"c%d" % at for at in range(5000)) + b"\n")
    deep = as_csv([line("1", tags={"a": "b"})]).replace(b'"{""a"": ""b""}"', b"[" * 100_000)
    with pytest.raises(BillDamaged, match="Tags"):
        read(deep)


def test_tags_are_found_however_they_are_spelled():
    tags = [{"holdfast:group": "x"}, {"user:holdfast:group": "y"}, {"holdfast_group": "z"}, {"Holdfast-Group": " "}, {}]
    found = read(as_csv([line("1", tags=one) for one in tags]))
    assert tag_values(found["Tags"], ["holdfast:group"]).to_pylist() == ["x", "y", "z", None, None]
    sliced = found["Tags"].slice(1, 2)
    assert tag_values(sliced, ["holdfast:group"]).to_pylist() == ["y", "z"]


def test_a_wrong_type_is_named_with_its_column():
    table = pq.read_table(io.BytesIO(as_parquet(LINES)))
    at = table.column_names.index("BilledCost")
    odd = table.set_column(at, "BilledCost", pa.array([b"x" * 16] * len(LINES), pa.binary(16)))
    sink = io.BytesIO()
    pq.write_table(odd, sink)
    with pytest.raises(BillDamaged, match="another type") as caught:
        read(sink.getvalue())
    assert "BilledCost" in str(caught.value.where)


def test_a_text_that_is_no_utf_8_is_refused():
    data = as_csv([line("1"), line("2", ChargeDescription="@@")]).replace(b"@@", b"\xff\xfe")
    with pytest.raises(BillDamaged):
        read(data)
    # One cell too many, in a row that is no UTF-8 either: no line may be lost for it.
    with pytest.raises(BillDamaged, match="number of cells"):
        read(data.replace(b"\xff\xfe", b"\xff,\xfe"))


@pytest.mark.parametrize("form", ["aws", "bigquery", "csv", "csv.gz"])
def test_damaged_bytes_are_read_or_refused_and_nothing_else(form):
    good = as_csv(LINES, zipped=form == "csv.gz") if form.startswith("csv") else as_parquet(LINES, how=form)
    rng = random.Random(form)
    outcomes = set()
    for _ in range(60):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at, kind = rng.randrange(len(data)), rng.random()
            if kind < 0.6:
                data[at] ^= 1 << rng.randrange(8)
            elif kind < 0.8:
                del data[at : at + rng.randrange(1, 20)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 8))
        try:
            read(bytes(data), most_file_mib=16)
            outcomes.add("read")
        except BillDamaged:
            outcomes.add("refused")
    assert "refused" in outcomes
