"""Make the dataset `market-data`: daily S&P 500, NASDAQ and VIX, as features and the next day's volatility.

The prices are the ones the `arch` package carries (Yahoo! Finance and FRED, 1999 to 2018). One Parquet file per year,
the same bytes each time. `put` seeds a site's bucket, `write` a folder:

    python include/training/prepare_data.py --site aws-eu-west-1
    python include/training/prepare_data.py --folder /tmp/market-data
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from holdfast.engine.objectstore import ObjectStore

#: The model's inputs, in the order of its columns.
FEATURES = (
    "range_1d",
    "range_5d",
    "range_22d",
    "return_1d",
    "return_5d",
    "loss_5d",
    "volume_change",
    "nasdaq_range_1d",
    "nasdaq_range_5d",
    "nasdaq_return_1d",
    "vix",
    "vix_change_1d",
    "vix_change_5d",
    "weekday",
)
#: Parkinson's volatility of the next trading day, in percent per year.
TARGET = "next_day_volatility"


def frame() -> pd.DataFrame:
    """One row per trading day, indexed by date. VIX is missing before 2014, which trees take as it is."""
    try:
        import numpy as np
        import pandas as pd
        from arch.data import nasdaq, sp500, vix
    except ModuleNotFoundError as missing:
        from holdfast.errors import ConfigError

        raise ConfigError(
            "the market data cannot be made",
            where=Path(__file__).name,
            expected="the extra `sandbox`, which carries it",
            found=str(missing),
            fix="pip install 'holdfast[sandbox]'",
        ) from None

    spx, ndq = sp500.load(), nasdaq.load().reindex(sp500.load().index)
    fear = vix.load()["vix"].reindex(spx.index)
    # Parkinson (1980): the range of a day estimates its variance five times better than its close does.
    scale = 100 * np.sqrt(252) / (2 * np.sqrt(np.log(2)))
    spx_range, ndq_range = (scale * np.log(f["High"] / f["Low"]) for f in (spx, ndq))
    change, ndq_change = (100 * np.log(f["Adj Close"]).diff() for f in (spx, ndq))
    days = pd.DataFrame(
        {
            "range_1d": spx_range,
            "range_5d": spx_range.rolling(5).mean(),
            "range_22d": spx_range.rolling(22).mean(),
            "return_1d": change,
            "return_5d": change.rolling(5).sum(),
            "loss_5d": change.clip(upper=0).rolling(5).sum(),
            "volume_change": np.log(spx["Volume"]).diff(),
            "nasdaq_range_1d": ndq_range,
            "nasdaq_range_5d": ndq_range.rolling(5).mean(),
            "nasdaq_return_1d": ndq_change,
            "vix": fear,
            "vix_change_1d": fear.diff(),
            "vix_change_5d": fear.diff(5),
            "weekday": spx.index.day_of_week.astype("float64"),
            TARGET: spx_range.shift(-1),
        },
        index=spx.index,
    )
    # Six decimals: more than prices carry, fewer than two machines' logarithms could differ in.
    return days.iloc[22:-1].round(6)


def files() -> dict[str, bytes]:
    """The dataset as relative path → Parquet bytes, one file per year."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    days = frame()
    made = {}
    for year, part in days.groupby(days.index.year):
        columns = {"date": pa.array(part.index.date, type=pa.date32())}
        columns |= {
            name: pa.array(part[name].to_numpy(), type=pa.float64(), from_pandas=True) for name in (*FEATURES, TARGET)
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd", write_statistics=True)
        made[f"year={year}/days.parquet"] = sink.getvalue().to_pybytes()
    return made


def write(folder: Path) -> list[Path]:
    """Write the dataset into a local folder."""
    paths = []
    for name, data in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def put(store: ObjectStore, path: str = "market-data") -> list[str]:
    """Put the dataset into a bucket under ``data/<path>/``. What lies there already with the same bytes stays."""
    keys = []
    for name, data in files().items():
        key = f"data/{path}/{name}"
        if not any(info.key == key and store.get(key) == data for info in store.list(key)):
            store.put(key, data, content_type="application/vnd.apache.parquet")
        keys.append(key)
    return keys


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example dataset market-data.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--site", help="seed this site's bucket; publish it with the DAG replicate_datasets")
    where.add_argument("--folder", type=Path, help="write it into this folder")
    arguments = parser.parse_args()
    if arguments.folder:
        print(f"{len(write(arguments.folder))} files in {arguments.folder}")
        return
    from holdfast.engine.runtime import Runtime

    runtime = Runtime.from_environment()
    made = put(runtime.store(arguments.site), runtime.topology.dataset("market-data").path)
    print(f"{len(made)} objects at {arguments.site}")


if __name__ == "__main__":
    main()
