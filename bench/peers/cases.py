"""The rows: what each sends, through whom, and what it is held against."""

import dataclasses
import pathlib
import random
import subprocess
from collections.abc import Callable
from functools import partial

import loads
import machine
import proxies
from proxies import Running, Setup


@dataclasses.dataclass
class Options:
    ours: dict[str, str]  # label and binary
    peers: list[str]
    driver: str
    seconds: float
    work: pathlib.Path


@dataclasses.dataclass
class Subject:
    """One column of a row."""

    label: str
    start: Callable[[], Running]
    load: Callable[[Running], dict]
    base: str | None = None  # whom the ratio is to


@dataclasses.dataclass(frozen=True)
class Case:
    title: str
    unit: str
    at_most: float
    goal: float
    subjects: Callable[[Options, list], list[Subject]]  # also: what else was started
    rounds_max: int = 99
    # A proxy is started for each round, because memory that was given back is not given back whole.
    fresh: bool = False
    base: str = "nginx"


def started(options: Options, setup: Setup, upstream: int, load, base: str = "nginx", more: tuple = (), suffix: str = "") -> list[Subject]:
    """Each of ours, then each peer that was asked for, in front of `upstream`."""
    subjects = []
    for name, binary in options.ours.items():
        start = partial(proxies.shadowcat, binary, name + suffix, setup, upstream, options.work, options.driver)
        subjects.append(Subject(name + suffix, start, load, base))
    for name in [*options.peers, *more]:
        start = partial(proxies.peer, name, name + suffix, setup, upstream, options.work)
        subjects.append(Subject(name + suffix, start, load, base))
    return subjects


def demo(options: Options, others: list, workers: int = 1, cores: str = machine.CLIENT_CORE) -> int:
    port, process = proxies.upstream_demo(next(iter(options.ours.values())), options.work, workers, cores)
    others.append(process)
    return port


def stand_in(options: Options, others: list) -> int:
    port, process = proxies.upstream_python(options.work)
    others.append(process)
    return port


def callers(options: Options, proxy: Running, lines: list[tuple[str, str]]) -> pathlib.Path:
    path = options.work / f"callers-{proxy.name}"
    path.write_text("".join(f"{session} {token}\n" for session, token in lines))
    return path


def one_caller(options: Options, proxy: Running) -> pathlib.Path:
    path = options.work / f"callers-{proxy.name}"
    return path if path.exists() else callers(options, proxy, [(loads.session(proxy), "-")])


def post(connections: int, words: tuple[str, ...] = ("call",), setup: Setup = Setup(), upstream=demo):
    def subjects(options: Options, others: list) -> list[Subject]:
        def load(proxy: Running) -> dict:
            return loads.wrk(proxy, one_caller(options, proxy), connections, options.seconds, ["each", *words])

        large = ("nginx-tuned",) if setup.large and "nginx" in options.peers else ()
        return started(options, setup, upstream(options, others), load, more=large)

    return subjects


USERS = 8


def idp(options: Options, others: list) -> list[str]:
    """An authorization server; the tokens of its users."""
    command = ["python3", str(machine.ROOT / "bench/idp.py"), str(options.work), str(USERS)]
    process, _ = machine.start(command, options.work / "idp.log", machine.CLIENT_CORE, "ready")
    others.append(process)
    return [(options.work / f"token-{number}").read_text().strip() for number in range(USERS)]


def empty_logs(options: Options) -> None:
    """They are in memory."""
    for log in options.work.glob("access-*.log"):
        log.write_text("")


def edge(options: Options, others: list) -> list[Subject]:
    """Each connection is one of the users, and one thread of a client has them all."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "loadtest"], cwd=machine.ROOT, check=True)
    tokens, ready = idp(options, others), set()
    (options.work / "tokens").write_text("".join(f"{token}\n" for token in tokens))
    words = {"tokens": options.work / "tokens", "baggage": "b" * 200}
    scenario = proxies.filled("users.toml", words, options.work / "users.toml")

    def load(proxy: Running) -> dict:
        if proxy.name not in ready:
            # Once it has the keys.
            loads.session(proxy, tokens[0])
            ready.add(proxy.name)
        return loads.loadtest(proxy, scenario, options.seconds)

    return at_the_edge(options, others, load)


def edge_threads(options: Options, others: list) -> list[Subject]:
    """A thread of the client is one user. Each is woken by itself, and so are batches smaller, whatever the proxy does of a request."""
    tokens = idp(options, others)
    begun = {}

    def load(proxy: Running) -> dict:
        if proxy.name not in begun:
            begun[proxy.name] = callers(options, proxy, [(loads.session(proxy, token), token) for token in tokens])
        return loads.wrk(proxy, begun[proxy.name], 64, options.seconds, ["each", "call"], threads=USERS)

    return at_the_edge(options, others, load)


def at_the_edge(options: Options, others: list, load: Callable[[Running], dict]) -> list[Subject]:
    def logged(proxy: Running) -> dict:
        empty_logs(options)
        return load(proxy)

    more = ("nginx-edge",) if "nginx" in options.peers else ()
    return started(options, Setup(edge=True, log=True), demo(options, others), logged, more=more)


def handshakes(kind: str, group: str):
    def subjects(options: Options, others: list) -> list[Subject]:
        port, process = proxies.upstream_nginx(options.work, 1, machine.CLIENT_CORE)
        others.append(process)
        subprocess.run(["cargo", "build", "--quiet", "--example", "handshakes"], cwd=machine.ROOT, check=True)
        client = str(machine.ROOT / "target/debug/examples/handshakes")

        def load(proxy: Running) -> dict:
            return loads.handshakes(proxy, client, kind, group, round(200 * options.seconds), options.work)

        return started(options, Setup(tls=True), port, load)

    return subjects


def streams(options: Options, others: list) -> list[Subject]:
    def load(proxy: Running) -> dict:
        return loads.streams(proxy, 2000, max(4, options.seconds))

    return started(options, Setup(streams=True), stand_in(options, others), load)


def idle(tls: bool):
    def subjects(options: Options, others: list) -> list[Subject]:
        # A proxy keeps a descriptor towards upstream for each client: half of what we may have, less some.
        connections = min(10_000, machine.descriptors() // 2 - 100)

        def load(proxy: Running) -> dict:
            return loads.idle(proxy, loads.session(proxy), connections, options.work)

        return started(options, Setup(tls=tls), stand_in(options, others), load)

    return subjects


def fixed(options: Options, others: list) -> list[Subject]:
    begun = {}

    def load(proxy: Running) -> dict:
        if proxy.name not in begun:
            begun[proxy.name] = loads.session(proxy)
        return loads.fixed(proxy, begun[proxy.name], 5000, max(3, options.seconds), options.work)

    return started(options, Setup(), demo(options, others), load, base="haproxy")


def workers(options: Options, others: list) -> list[Subject]:
    """On each core a client, half of upstream and, of two workers, one; each proxy against itself."""
    upstream = demo(options, others, 2, machine.BOTH_CORES)

    def load(proxy: Running) -> dict:
        return loads.wrk(proxy, one_caller(options, proxy), 64, options.seconds, ["each", "call"])

    subjects = []
    for number in (1, 2):
        subjects += started(options, Setup(workers=number, cores=machine.BOTH_CORES), upstream, load, suffix=f"-{number}")
    for subject in subjects:
        subject.base = subject.label[:-1] + "1"
    return subjects


def crowd(options: Options, others: list) -> list[Subject]:
    port, process = proxies.upstream_nginx(options.work, 1, machine.CLIENT_CORE)
    others.append(process)
    begun, subjects = {}, []
    for label, binary in options.ours.items():
        for number in (100, 100_000):
            name = f"{label}-{number}"

            def load(proxy: Running, number=number) -> dict:
                if proxy.name not in begun:
                    ids = loads.sessions(proxy, number, "/begin")
                    # Nobody comes again in the order of memory.
                    random.Random(1).shuffle(ids)
                    begun[proxy.name] = callers(options, proxy, [(id, "-") for id in ids])
                return loads.wrk(proxy, begun[proxy.name], 64, options.seconds, ["turn", "call"])

            start = partial(proxies.shadowcat, binary, name, Setup(), port, options.work, options.driver)
            subjects.append(Subject(name, start, load, f"{label}-100"))
    return subjects


def variants(options: Options, setups: dict[str, Setup], upstream: int, loads_of: Callable[[str], Callable[[Running], dict]]) -> list[Subject]:
    """Ours alone: one server for each setup, held against the first."""
    subjects = []
    for label, binary in options.ours.items():
        base = f"{label}-{next(iter(setups))}"
        for name, setup in setups.items():
            start = partial(proxies.shadowcat, binary, f"{label}-{name}", setup, upstream, options.work, options.driver)
            subjects.append(Subject(f"{label}-{name}", start, loads_of(name), base))
    return subjects


def tokens(options: Options, others: list) -> list[Subject]:
    """With the token that `edge` verifies, and without any; nobody asks for it in either."""
    users = idp(options, others)
    begun = {}

    def load(proxy: Running, bare: bool) -> dict:
        if proxy.name not in begun:
            lines = [(loads.session(proxy, token), "-" if bare else token) for token in users]
            begun[proxy.name] = callers(options, proxy, lines)
        return loads.wrk(proxy, begun[proxy.name], 64, options.seconds, ["each", "call"], threads=USERS)

    limited = Setup(edge=True, log=False)
    setups = {"plain": Setup(), "bare": Setup(), "edge": limited}
    return variants(options, setups, demo(options, others), lambda name: partial(load, bare=name == "bare"))


def telemetry(options: Options, others: list) -> list[Subject]:
    """A line a request in a file in memory; a tenth of the requests traced to a collector that keeps nothing."""
    subprocess.run(["bash", str(machine.ROOT / "tests/peers/setup.sh"), str(machine.PEERS)], check=True, stdout=subprocess.DEVNULL)
    command = [str(machine.PEERS / "venv/bin/python"), str(machine.ROOT / "bench/collector.py")]
    process, found = machine.start(command, options.work / "collector.log", machine.CLIENT_CORE, r"listening on 127.0.0.1:(\d+)")
    others.append(process)
    log = f'[logging]\naccess = "all"\naccess_output = "{options.work}/access-of-it.log"\n'
    trace = f'[telemetry]\notlp_endpoint = "http://127.0.0.1:{found[1]}"\nsampling_ratio = 0.1\n'
    off = '[logging]\naccess = "off"\n'

    def load(proxy: Running) -> dict:
        empty_logs(options)
        return loads.wrk(proxy, one_caller(options, proxy), 64, options.seconds, ["each", "call"], settle=0.5)

    setups = {"off": Setup(extra=off), "log": Setup(extra=log), "trace": Setup(extra=off + trace), "all": Setup(extra=log + trace)}
    return variants(options, setups, demo(options, others), lambda _: load)


def record(options: Options, others: list) -> list[Subject]:
    """Everything on tapes in memory, with rules besides the default ones; the worker's time, and that of all threads."""
    rules = r'''redact_patterns = ['\b\d{4}-\d{4}-\d{4}-\d{4}\b', 'internal-[a-z]+']''' + '\nredact_paths = ["$.params.arguments.card"]\n'

    def taped(name: str) -> str:
        return f'[record]\noutput = "{options.work}/tapes-{name}"\nfile_bytes = "64MiB"\ntotal_bytes = "256MiB"\n{rules}'

    def load(proxy: Running) -> dict:
        return loads.wrk(proxy, one_caller(options, proxy), 64, options.seconds, ["each", "call"], settle=1)

    setups = {"off": Setup(threads="worker"), "tape": Setup(extra=taped("1"), threads="worker"), "all": Setup(extra=taped("2"))}
    return variants(options, setups, demo(options, others), lambda _: load)


def endpoints(words: list[str]):
    """100 names of one server against 2: upstream's work is the same."""

    def subjects(options: Options, others: list) -> list[Subject]:
        upstream, begun = demo(options, others), {}

        def load(proxy: Running) -> dict:
            if proxy.name not in begun:
                begun[proxy.name] = callers(options, proxy, [(loads.session(proxy), "-") for _ in range(64)])
            return loads.wrk(proxy, begun[proxy.name], 64, options.seconds, words)

        def named(number: int) -> Setup:
            entries = (f'[[upstreams]]\nname = "e{i}"\nurl = "http://127.0.0.1:{upstream}"\n' for i in range(number))
            return Setup(extra="".join(entries))

        return variants(options, {"2": named(2), "100": named(100)}, upstream, lambda _: load)

    return subjects


NS, BYTES = "CPU ns a request", "bytes a connection"
LARGE = Setup(large=True)
CASES = {
    "post64": Case("250-byte POST, 1 KiB head, 64 connections", NS, 0.75, 0.65, post(64)),
    "post64-vary": Case("the same, another traceparent in each", NS, 0.75, 0.65, post(64, ("call", "vary"))),
    "post256": Case("256 connections", NS, 0.70, 0.58, post(256)),
    "post16": Case("16 connections", NS, 1.0, 0.85, post(16)),
    "post1": Case("1 connection", NS, 1.0, 0.85, post(1)),
    "auth": Case("with JWT, a limit for each of 8 users, access log", NS, 0.82, 0.72, edge),
    "auth-threads": Case("the same, a client thread for each user", NS, 0.82, 0.72, edge_threads),
    "tls": Case("over TLS 1.3, 64 connections", NS, 0.85, 0.75, post(64, setup=Setup(tls=True))),
    "handshake-full": Case("TLS 1.3 handshake, full, X25519", "CPU ns a connection", 0.88, 0.75, handshakes("full", "x25519")),
    "handshake-resumed": Case("TLS 1.3 handshake, resumed, X25519", "CPU ns a connection", 0.75, 0.5, handshakes("resumed", "x25519")),
    "handshake-full-hybrid": Case("full, X25519MLKEM768 offered", "CPU ns a connection", 0.88, 0.75, handshakes("full", "hybrid")),
    "handshake-resumed-hybrid": Case("resumed, X25519MLKEM768 offered", "CPU ns a connection", 0.75, 0.5, handshakes("resumed", "hybrid")),
    "churn": Case("new connection a request", NS, 1.0, 0.88, post(64, ("call", "close"))),
    "response1m": Case("1 MiB response, 16 connections", "CPU ns a MiB", 1.0, 0.80, post(16, ("big",), LARGE, stand_in)),
    "request1m": Case("1 MiB request, 16 connections", "CPU ns a MiB", 0.68, 0.55, post(16, ("upload",), LARGE, stand_in)),
    "streams": Case("2,000 SSE streams, an event a second each", "CPU ns an event", 0.88, 0.75, streams, fresh=True),
    "idle": Case("10,000 idle connections", BYTES, 2048, 665, idle(False), rounds_max=2, fresh=True),
    "idle-tls": Case("10,000 idle connections over TLS", BYTES, 16384, 8192, idle(True), rounds_max=2, fresh=True),
    "fixed5000": Case("5,000 requests a second", NS, 1.05, 0.95, fixed, base="haproxy"),
    "workers": Case("2 workers against 1, client and upstream on the same cores", NS, 1.05, 1.0, workers, base="itself"),
    "tokens": Case("tokens and a limit for each user, to the same without", NS, 1.10, 1.0, tokens, base="itself"),
    "telemetry": Case("access log and traces, to the same without", NS, 1.10, 1.05, telemetry, base="itself"),
    "record": Case("everything on tapes, to the same without: the worker, and all threads", NS, 1.10, 1.05, record, base="itself"),
    "endpoints": Case("100 endpoints against 2, 64 sessions in turn", NS, 1.05, 1.0, endpoints(["turn", "call"]), base="itself"),
    "endpoints-modern": Case("100 endpoints against 2, requests without session", NS, 1.05, 1.0, endpoints(["each", "modern"]), base="itself"),
    "sessions": Case("100,000 live sessions against 100, in turn", NS, 1.05, 1.02, crowd, base="itself"),
}
