# syntax=docker/dockerfile:1
# One image for every process: `tenon serve auth|tenant|billing|workflow|gateway|all`, `tenon migrate`.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/target SQLX_OFFLINE=true
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    cargo build --profile dist --locked -p tenon && install -D /target/dist/tenon /out/tenon

FROM debian:bookworm-slim
# Certificates for TLS to Postgres, Redis, NATS and the collector; nothing else is needed at run time.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin tenon
COPY --from=build /out/tenon /usr/local/bin/tenon
USER 65532:65532
ENV TENON_BIND=0.0.0.0 TENON_LOG_FORMAT=json
# edge; admin; auth, tenant, billing, workflow
EXPOSE 8080 9100 9101 9102 9103 9104
ENTRYPOINT ["/usr/local/bin/tenon"]
CMD ["serve", "all"]
