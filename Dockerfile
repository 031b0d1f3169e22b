# syntax=docker/dockerfile:1.7
#
#   docker build -t shadowcat:latest .
#   docker run --rm -p 8080:8080 -e SHADOWCAT_UPSTREAM=http://mcp-server:3000 \
#     shadowcat:latest reverse --config /etc/shadowcat/config.toml
#
# The image has the program, the C library and the roots of public certificate authorities; there is no shell in it.
# With the runtime's own seccomp profile workers run on epoll; deploy/seccomp/README.md says how to allow io_uring.

FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
# The load generator is of the same workspace: cargo wants to see it, and compiles nothing of it.
COPY loadtest/Cargo.toml loadtest/Cargo.toml
COPY loadtest/src/main.rs loadtest/src/main.rs
# Which commit `shadowcat --version` names.
ARG SHADOWCAT_COMMIT
# What was fetched and compiled is kept from build to build, so a change of ours compiles ours alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin shadowcat \
    && mkdir -p /image/usr/local/bin /image/data \
    && cp target/release/shadowcat /image/usr/local/bin/shadowcat
COPY config /image/etc/shadowcat/
COPY deploy/docker/config.toml /image/etc/shadowcat/config.toml

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Shadowcat" \
      org.opencontainers.image.description="A proxy for MCP servers" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build --chown=root:root /image/usr /usr
COPY --from=build --chown=root:root /image/etc/shadowcat /etc/shadowcat
COPY --from=build --chown=65532:65532 /image/data /data
# Sessions, unless the configuration says where.
ENV XDG_STATE_HOME=/data
USER 65532:65532
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/local/bin/shadowcat", "health"]
ENTRYPOINT ["/usr/local/bin/shadowcat"]
