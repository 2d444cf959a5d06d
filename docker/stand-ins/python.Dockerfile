# Stands in for python:3.11-slim-bookworm where that cannot be pulled: Debian's own Python 3.11.
FROM effir-stand-in-debian:bookworm
# hadolint ignore=DL3008
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && ln -s /usr/bin/python3 /usr/local/bin/python \
 && ln -s /usr/bin/python3 /usr/local/bin/python3
CMD ["python3"]
