# tidemark-restore with the server programs it starts:
#   docker build -f docker/restore.Dockerfile --build-arg POSTGRES=17 -t tidemark-restore:17 .
ARG POSTGRES=17
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p tidemark-restore

FROM postgres:${POSTGRES}-bookworm
COPY --from=build /src/target/release/tidemark-restore /usr/local/bin/
USER postgres
ENTRYPOINT ["tidemark-restore"]
