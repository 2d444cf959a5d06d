# Airflow with the DAGs and without anything that computes: `docker run effir-airflow airflow scheduler`, and the like.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS tools
WORKDIR /build
RUN --mount=type=bind,source=docker/install,target=/build/install \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install tools

# Only what this image needs: a change elsewhere in pyproject.toml or the pins leaves the libraries in the cache.
FROM tools AS pins
COPY pyproject.toml ./
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements,target=/build/requirements \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install pins --group airflow

FROM tools AS libraries
COPY --from=pins /build/pins.txt /build/sbom.txt ./
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements/wheels,target=/build/requirements/wheels \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install venv

FROM ${BASE}
# git: DAG bundles that pin a run to one commit. AIRFLOW_HOME is where the official image has it, and the official chart mounts files.
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin effir \
 && install -d -o effir -g effir /opt/airflow /opt/airflow/logs \
 && install -d -o effir -g effir -m 700 /opt/effir/credentials/compute /opt/effir/credentials/decide /opt/effir/credentials/judge \
      /opt/effir/credentials/promote
COPY --from=tools /usr/bin/tini-static /usr/local/bin/tini
COPY --from=libraries /opt/venv /opt/venv
COPY dags /opt/effir/dags
# The root file system may be read-only but for AIRFLOW_HOME's logs (a volume) and /tmp.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=effir LOGNAME=effir XDG_CACHE_HOME=/tmp/cache \
    AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/effir/dags AIRFLOW__CORE__LOAD_EXAMPLES=false DO_NOT_TRACK=true \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/effir/dags/plugins
WORKDIR /opt/airflow
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["airflow", "--help"]
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="effir-airflow" \
      org.opencontainers.image.description="Airflow with effir's DAGs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      effir.sbom="/opt/venv/sbom.json" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
