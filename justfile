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

test:
    cargo nextest run

# One test binary, e.g. `just it streaming`.
it FILTER="":
    cargo nextest run --test it {{FILTER}}

# CPU a request against nginx on this machine; see bench/README.md.
bench-nginx *ARGS:
    bash bench/nginx.sh {{ARGS}}

# Ten minutes of one fuzz target: head chunked sse peek config.
fuzz TARGET SECONDS="600":
    bash fuzz/run.sh {{TARGET}} {{SECONDS}}

demo:
    cargo run --release -- reverse --demo
