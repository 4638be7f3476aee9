"""Audit events of every cloud and of Airflow: collected, normalised, sealed, exported, and verified offline."""
