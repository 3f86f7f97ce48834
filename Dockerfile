# evenkeel as one static binary in an empty image. Build line and start are tested in control/tests/it/image.rs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target x86_64-unknown-linux-gnu -p control -p proxy

FROM scratch
COPY --from=build /src/target/x86_64-unknown-linux-gnu/release/evenkeel /evenkeel
COPY --from=build /src/target/x86_64-unknown-linux-gnu/release/evenkeel-proxy /evenkeel-proxy
USER 65532:65532
ENTRYPOINT ["/evenkeel"]
