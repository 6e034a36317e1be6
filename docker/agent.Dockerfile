# tidemark-agent alone: docker build -f docker/agent.Dockerfile -t tidemark-agent .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p tidemark-agent

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/tidemark-agent /usr/local/bin/
# Reads the data directory when it is mounted: the same user id as in the official postgres image.
USER 999:999
EXPOSE 9610
ENTRYPOINT ["tidemark-agent"]
CMD ["run", "--config", "/etc/tidemark/agent.toml"]
