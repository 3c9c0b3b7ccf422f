# docker build --target cpu --build-arg TORCH_INDEX=ADDRESS -t nanogpkant .   (the index of PyTorch's CPU builds: see pytorch.org)
#                                                  docker run --rm nanogpkant sample pretrained:shakespeare-mini-kan
# docker build --target cuda -t nanogpkant:cuda .  docker run --rm --gpus all -v "$PWD/runs:/app/runs" nanogpkant:cuda train quickstart_kan
FROM python:3.12-slim AS base
# A C compiler makes the layer and sampling several times as fast on a CPU. Its version is the image's.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE THIRD_PARTY_LICENSES /src/
COPY nanogpkant /src/nanogpkant
ENTRYPOINT ["nanogpkant"]
CMD ["--help"]

FROM base AS cpu
ARG TORCH_INDEX=""
# Versions are pinned in constraints.txt.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==2.13.0" \
 && pip install --no-cache-dir -c /src/constraints.txt "/src[shakespeare,interpret,compare]"

FROM base AS cuda
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[shakespeare,interpret,compare]"
