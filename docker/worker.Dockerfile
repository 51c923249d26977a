# The worker: torch and the model.  torch's package brings its CUDA libraries, the host the driver.
#   docker build -f docker/worker.Dockerfile -t jeep-worker .
# BASE_IMAGE is any image that has Python 3.11 or newer with venv, or gets it by apt-get; for a
# worker without a GPU python:3.12-slim-bookworm does.
# EXTRAS=worker,ray makes an image for a Ray cluster, its nodes' and the service's.
# An index other than pip's own default:  --secret id=pip,src=pip.conf
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008
RUN python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    || { apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*; }

FROM python AS build
ARG EXTRAS=worker
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
# What it depends on comes first and stays in the cache while the code changes.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/jeep && /opt/jeep/bin/pip install --no-cache-dir ".[${EXTRAS}]"
COPY jeep_core jeep_core
COPY service service
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/jeep/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python
RUN useradd --uid 10001 --no-create-home --home-dir /tmp jeep \
    && install -d -o 10001 -g 10001 /store /cache
COPY --from=build /opt/jeep /opt/jeep
ENV PATH=/opt/jeep/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 JEEP_STORE=/store \
    JEEP_MODELS=/cache/models HF_HOME=/cache/huggingface CUDA_CACHE_PATH=/cache/cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /tmp
# A large model takes minutes to load.
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m \
  CMD ["python3", "-m", "service.ops.health", "worker"]
CMD ["jeep", "worker"]
