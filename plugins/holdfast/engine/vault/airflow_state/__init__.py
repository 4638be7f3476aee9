"""Airflow's own state: backed up, restored and drilled from outside. Nothing here imports Airflow."""
