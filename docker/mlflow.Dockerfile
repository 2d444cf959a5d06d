# The MLflow server: `docker run effir-mlflow python -m mlflow_access USERS --host 0.0.0.0 …`, or without logins `mlflow server …`.
# Its store is Postgres (or a file), artifacts lie on S3.
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
    ./install pins --group mlflow

FROM tools AS libraries
COPY --from=pins /build/pins.txt /build/sbom.txt ./
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements/wheels,target=/build/requirements/wheels \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install venv

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin effir
COPY --from=tools /usr/bin/tini-static /usr/local/bin/tini
COPY --from=libraries /opt/venv /opt/venv
COPY tasks/effir/services/mlflow_access.py /opt/effir/
# One process that serves and none that works for it; the root file system may be read-only but for /tmp.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/effir PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=effir LOGNAME=effir XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["mlflow", "server"]
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="effir-mlflow" \
      org.opencontainers.image.description="The MLflow server that keeps effir's registry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      effir.sbom="/opt/venv/sbom.json" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
