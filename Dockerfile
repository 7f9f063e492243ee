# kvpoold and kvpoolctl, built from source. Any builder of Dockerfiles will do;
# deploy/container-test.sh builds and proves it without a Docker engine.

FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/packages.sh deploy/
RUN deploy/packages.sh build
COPY CMakeLists.txt CMakePresets.json ./
COPY cmake cmake
COPY proto proto
COPY base base
COPY pool pool
COPY receipts receipts
COPY sinks sinks
COPY engine engine
COPY rpc rpc
COPY server server
COPY cli cli
RUN cmake --preset release \
    && cmake --build build/release --target kvpoold kvpoolctl \
    && install -D -s -t /out/bin build/release/server/kvpoold build/release/cli/kvpoolctl

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="kvpool" \
    org.opencontainers.image.description="LLM inference server whose KV cache is a resource to watch and steer" \
    org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-WordNet-3.0" \
    org.opencontainers.image.base.name="debian:bookworm-slim"
COPY deploy/packages.sh /tmp/
RUN /tmp/packages.sh run && rm -rf /tmp/packages.sh /var/lib/apt/lists/* \
    /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY LICENSE engine/demo/LICENSE-WordNet.txt /usr/share/doc/kvpool/
COPY --from=build /out/bin/ /usr/local/bin/

# Receipts are all that is written, so the root file system may be read-only. A
# volume there takes its owner from the image.
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/kvpool
VOLUME /var/lib/kvpool
USER 65532:65532
ENV KVPOOL_LISTEN=0.0.0.0:7440 \
    KVPOOL_ADMIN_LISTEN=0.0.0.0:7441 \
    KVPOOL_ENABLE_RECEIPTS=true \
    KVPOOL_DATA_DIR=/var/lib/kvpool
EXPOSE 7440 7441
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["kvpoolctl", "ping"]
ENTRYPOINT ["kvpoold"]
