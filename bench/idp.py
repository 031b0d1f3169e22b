#!/usr/bin/env python3
"""An authorization server for benches: a key set, and tokens for an hour.

usage: bench/idp.py DIRECTORY USERS

Writes the issuer's URL to DIRECTORY/issuer, the public key to DIRECTORY/idp.pem and a token for user-N to DIRECTORY/token-N (RS256, RFC 9068), then serves
the metadata (RFC 8414) and the keys. Keys and signatures come from the openssl command.
"""

import base64
import http.server
import json
import pathlib
import subprocess
import sys
import time

AUDIENCE = "https://mcp.example.com"


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


def main() -> None:
    directory, users = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    key = str(directory / "idp.key")
    openssl("genrsa", "-out", key, "2048")
    openssl("rsa", "-in", key, "-pubout", "-out", str(directory / "idp.pem"))
    modulus = bytes.fromhex(openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().partition("=")[2])
    jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "bench", "n": url64(modulus), "e": "AQAB"}
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_words) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = f"http://127.0.0.1:{server.server_address[1]}"
    answers["/jwks"] = json.dumps({"keys": [jwk]}).encode()
    answers["/.well-known/oauth-authorization-server"] = json.dumps({"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}).encode()
    header = url64(json.dumps({"alg": "RS256", "typ": "at+jwt", "kid": "bench"}).encode())
    now = int(time.time())
    for number in range(users):
        claims = {"iss": issuer, "aud": AUDIENCE, "sub": f"user-{number}", "client_id": "bench", "scope": "mcp:read mcp:write",
                  "iat": now, "exp": now + 3600, "jti": f"{number:032x}"}
        signed = f"{header}.{url64(json.dumps(claims).encode())}"
        signature = openssl("dgst", "-sha256", "-sign", key, given=signed.encode())
        (directory / f"token-{number}").write_text(f"{signed}.{url64(signature)}")
    (directory / "issuer").write_text(issuer + "\n")
    print("ready", flush=True)
    server.serve_forever()


main()
