# Tercet's server with the bundled model, for CPUs; docs/serve.md says how to run it.
#   docker build -t tercet .

ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Tercet" \
      org.opencontainers.image.licenses="Apache-2.0"
SHELL ["/bin/sh", "-euc"]
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# First torch, which changes least; from its own index, as PyPI's brings CUDA.
ARG TORCH=2.13.0
RUN python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
        "torch==${TORCH}"

# The wheel has the weights: nothing is fetched when the server starts.
ARG EXTRAS=torch,hnsw,serve,pdf,office,parquet,encodings,zstd,filter
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    set -- /wheels/tercet-*.whl; \
    python -m pip install --no-cache-dir "$1[${EXTRAS}]"

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data tercet; \
    install -d -o tercet -g tercet /data
USER 10001:10001
WORKDIR /data
ENV HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8080

# Keys: $TERCET_KEYS, or a file and --key-file; without one the server does not listen to others.
# It is asked by the address that it listens at, which no --allow-host leaves out.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://0.0.0.0:8080/health', timeout=4)"]
# SIGTERM, which `docker stop` sends: what is under way is answered for up to 30 seconds.
ENTRYPOINT ["tercet"]
CMD ["serve", "/data/index", "--host", "0.0.0.0", "--port", "8080"]
