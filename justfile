# Everything that CI checks, and the shorter ways to parts of it.

default: test

# The whole of CI.
ci:
    bash .ci/run

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --all-targets -- -D warnings
    cargo clippy -p loadtest --all-targets -- -D warnings

test:
    cargo nextest run
    cargo nextest run -p loadtest

# One test binary, e.g. `just it streaming`.
it FILTER="":
    cargo nextest run --test it {{FILTER}}

# A load test; see docs/LOADTEST.md, e.g. `just load tools-call --target http://127.0.0.1:8080/mcp`.
load *ARGS:
    cargo run --release -p loadtest -- {{ARGS}}

# The load generator beside wrk and h2load.
load-compare *ARGS:
    bash loadtest/compare.sh {{ARGS}}

# CPU and memory against nginx, HAProxy and others on this machine, e.g. `just bench-peers post64 tls`; see bench/README.md.
bench-peers *ARGS:
    python3 bench/peers {{ARGS}}

# CPU a request with tokens and limits, against the same without.
bench-edge *ARGS:
    bash bench/edge.sh {{ARGS}}

# CPU a request with metrics, access log and traces.
bench-telemetry *ARGS:
    bash bench/telemetry.sh {{ARGS}}

bench-endpoints *ARGS:
    bash bench/endpoints.sh {{ARGS}}

bench-choose:
    cargo bench --bench choose

# What a page of metrics costs with 1,000 upstreams and 100 tools.
bench-scrape *ARGS:
    python3 bench/scrape.py {{ARGS}}

# What `forward stdio` adds to a message.
bench-stdio *ARGS:
    python3 bench/stdio.py {{ARGS}}

# testssl.sh against a listener.
scan-tls:
    bash tests/peers/testssl.sh

# Ten minutes of one fuzz target: head chunked sse peek config sealed answer tape.
fuzz TARGET SECONDS="600":
    bash fuzz/run.sh {{TARGET}} {{SECONDS}}

# The words of an endpoint over all interleavings of a few threads.
loom:
    cargo test --manifest-path tests/loom/Cargo.toml

# Install as a service of systemd (PREFIX and DESTDIR in the environment), and take it away again.
install BINARY="target/release/shadowcat":
    BINARY={{BINARY}} bash systemd/install.sh install

uninstall:
    bash systemd/install.sh uninstall

# This machine against tuning/90-shadowcat.conf; changes nothing.
check-machine *ARGS:
    bash tuning/check.sh {{ARGS}}

demo:
    cargo run --release -- reverse --demo
