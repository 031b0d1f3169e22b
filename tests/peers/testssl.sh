#!/usr/bin/env bash
# What testssl.sh, which auditors run, has to say of a listener: with the defaults, and with TLS 1.3 alone. Fails on any
# finding above "low" that is not about the authority, which is made here: nobody trusts it, and it can be revoked nowhere.
# A page of the proxy's own is asked for; the fields of other answers are upstream's. Takes two to six minutes.
#
# usage: tests/peers/testssl.sh [BINARY]
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=${1:-target/release/shadowcat}
command -v testssl >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq testssl.sh >/dev/null; }
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
(
    cd "$work"
    for name in ca leaf; do openssl ecparam -name prime256v1 -genkey -noout -out $name.key; done
    openssl req -x509 -new -key ca.key -days 365 -subj /CN=test-authority -out ca.pem
    openssl req -new -key leaf.key -subj /CN=localhost -out leaf.csr
    printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n' >extensions
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 -extfile extensions -out leaf.pem
    chmod 600 leaf.key
) 2>/dev/null

scan() { # NAME [ARGUMENT...]
    local name=$1 port; shift
    "$binary" reverse --demo --bind 127.0.0.1:0 --tls-cert "$work/leaf.pem" --tls-key "$work/leaf.key" --set session.store=memory \
        "$@" >"$work/$name.log" 2>&1 & pids+=($!)
    for _ in $(seq 200); do grep -q 'listening on' "$work/$name.log" && break; read -rt 0.05 <> <(:) || true; done
    port=$(grep -oE 'listening on https://127.0.0.1:[0-9]+' "$work/$name.log" | grep -oE '[0-9]+$')
    testssl --quiet --color 0 --warnings batch --ip 127.0.0.1 --nodns none --jsonfile "$work/$name.json" \
        "https://localhost:$port/health" >"$work/$name.txt" 2>&1 </dev/null || true
    python3 - "$name" "$work/$name.json" <<'PYTHON'
import collections, json, sys

findings = json.load(open(sys.argv[2]))
seen = {finding["id"] for finding in findings}
# So that a scan which saw nothing is none.
missing = {"SSLv3", "TLS1", "TLS1_3", "cipherlist_3DES_IDEA", "cert_signatureAlgorithm", "heartbleed", "ROBOT", "BEAST", "HSTS"} - seen
grave = [finding for finding in findings if finding["severity"] not in ("OK", "INFO", "LOW")
         and finding["id"] not in ("cert_chain_of_trust", "cert_revocation")]
print(sys.argv[1], dict(collections.Counter(finding["severity"] for finding in findings)),
      "low:", [finding["id"] for finding in findings if finding["severity"] == "LOW"])
for finding in grave:
    print(finding["severity"], finding["id"], finding["finding"])
sys.exit(f"not looked at: {missing}" if missing else 1 if grave else 0)
PYTHON
}

scan defaults
scan tls-1.3-alone --tls-min-version 1.3
