# The worker: torch, which brings its CUDA libraries; the host brings the driver.
ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY jeep_core jeep_core
COPY service service
RUN python3 -m venv /opt/jeep && /opt/jeep/bin/pip install --no-cache-dir '.[worker]'

FROM ${BASE_IMAGE}
COPY --from=build /opt/jeep /opt/jeep
RUN useradd --uid 10001 --create-home jeep && mkdir /store /models && chown jeep /store /models
USER jeep
ENV PATH=/opt/jeep/bin:$PATH JEEP_STORE=/store HF_HOME=/models PYTHONUNBUFFERED=1
CMD ["jeep", "worker"]
