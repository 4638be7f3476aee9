# Airflow with Holdfast's locked dependencies. The package itself is mounted from plugins/ by docker-compose.yaml.
FROM apache/airflow:3.3.2-python3.11
USER root
RUN install --directory --owner airflow /opt/holdfast/state /opt/holdfast/gcs
USER airflow
COPY --chown=airflow requirements/runtime.lock /tmp/runtime.lock
RUN pip install --no-cache-dir --require-hashes -r /tmp/runtime.lock
