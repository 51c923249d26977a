# The api: no torch.  BASE_IMAGE can be any Python 3.11+ image.
ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY jeep_core jeep_core
COPY service service
RUN python3 -m venv /opt/jeep && /opt/jeep/bin/pip install --no-cache-dir .

FROM ${BASE_IMAGE}
COPY --from=build /opt/jeep /opt/jeep
RUN useradd --uid 10001 --create-home jeep && mkdir /store && chown jeep /store
USER jeep
ENV PATH=/opt/jeep/bin:$PATH JEEP_STORE=/store JEEP_HOST=0.0.0.0 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["jeep", "api"]
