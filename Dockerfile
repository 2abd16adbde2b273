# Images where a registry is reachable; `make image` makes the same without one.
#   docker build --target agent -t agentsight .
#   docker build --target operator -t agentsight-operator .
ARG RUST_IMAGE=docker.io/library/rust:1.95-trixie
ARG BASE_IMAGE=docker.io/library/debian:trixie-slim

FROM ${RUST_IMAGE} AS build
# What the kernel programs are compiled with.
RUN apt-get update && apt-get install -y --no-install-recommends clang-19 libbpf-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --locked --release -p agentsight -p agentsight-operator \
    && install -D -t /out /target/release/agentsight /target/release/agentsight-operator

# libc, its name resolution, and certificates.
FROM ${BASE_IMAGE} AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/agentsight/LICENSE

FROM base AS operator
LABEL org.opencontainers.image.title="agentsight-operator" \
      org.opencontainers.image.description="Accepts AgentTraces and tells what became of them"
COPY --from=build /out/agentsight-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/agentsight-operator"]

FROM base AS agent
LABEL org.opencontainers.image.title="agentsight" \
      org.opencontainers.image.description="Traces AI agents on a node, from outside"
COPY --from=build /out/agentsight /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/agentsight"]
