"""The Airflow assets that chain the DAGs: one per protected dataset and one per published model.

Their URIs have a scheme that begins with ``x-``: for any other, Airflow asks every installed provider for a handler
while the DAG file is parsed, which takes seconds.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

#: Stands for the asset of whichever vault got new backups.
BACKED_UP = AssetAlias("holdfast-backed-up", group="holdfast")
#: Stands for the asset of whichever model a run trained.
TRAINED_MODEL = AssetAlias("holdfast-trained-model", group="holdfast")
#: Stands for the asset of whichever job's run ended well.
FINISHED_TRAINING = AssetAlias("holdfast-finished-training", group="holdfast")

#: Updated when a billing period's costs were reported.
COSTS = Asset(name="holdfast-costs", uri="x-holdfast://costs", group="holdfast")
#: Updated when every site's posture was looked at and is as it should be.
POSTURE = Asset(name="holdfast-posture", uri="x-holdfast://posture", group="holdfast")
#: Updated when every copy was judged and lies where it may.
RESIDENCY = Asset(name="holdfast-residency", uri="x-holdfast://residency", group="holdfast")


def dataset_asset(name: str) -> Asset:
    """Updated when a new snapshot of the dataset is verified at every site of its group."""
    return Asset(name=f"holdfast-dataset-{name}", uri=f"x-holdfast://datasets/{name}", group="holdfast")


def new_snapshot(dataset: str) -> AssetAlias:
    """Stands for the asset of a dataset where an event is to be added only when there is a new snapshot."""
    return AssetAlias(f"holdfast-new-snapshot-{dataset}", group="holdfast")


def model_asset(name: str) -> Asset:
    """Updated when a new version of the model is verified at every site of its group."""
    return Asset(name=f"holdfast-model-{name}", uri=f"x-holdfast://models/{name}", group="holdfast")


def training_asset(job: str) -> Asset:
    """Updated when a run of the job ended well, at its own site: `model_asset` waits for the others."""
    return Asset(name=f"holdfast-training-{job}", uri=f"x-holdfast://training/{job}", group="holdfast")


def vault_asset(name: str) -> Asset:
    """The asset of a vault: it has an event whenever backups were made. See `BACKED_UP`."""
    return Asset(name=f"holdfast-vault-{name}", uri=f"x-holdfast://vaults/{name}", group="holdfast")


def ledger_asset(origin: str) -> Asset:
    """The asset of a ledger: it has an event for each seal."""
    return Asset(name=f"holdfast-ledger-{origin}", uri=f"x-holdfast://ledgers/{origin}", group="holdfast")


def verified_asset(origin: str) -> Asset:
    """Updated when a ledger's exports were read back and are fine."""
    return Asset(name=f"holdfast-verified-{origin}", uri=f"x-holdfast://verified/{origin}", group="holdfast")
