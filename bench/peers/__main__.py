#!/usr/bin/env python3
"""CPU time and memory of shadowcat and of other proxies on the same work, in one run, rounds interleaved.

usage: bench/peers [CASE...] [--rounds N] [--seconds S] [--ours [LABEL=]BINARY]... [--driver D] [--peers nginx,haproxy]
       bench/peers --list
       bench/peers --report FILE... [--markdown]

What is missing is installed. A proxy has one worker on one core; client and upstream are on the other. bench/README.md has
the method. Raw figures go to bench/results/.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import cases
import machine
import proxies
from loads import Failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="rows (--list); all if none is named")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of a round")
    parser.add_argument("--ours", action="append", default=[], metavar="[LABEL=]BINARY", help="repeatable: builds to compare")
    parser.add_argument("--driver", default="auto", choices=["auto", "io_uring", "epoll"])
    parser.add_argument("--peers", default="nginx,haproxy", help=f"of {', '.join(proxies.PEERS)}")
    parser.add_argument("--results", type=pathlib.Path, default=machine.ROOT / "bench/results", help="folder of the raw figures")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="with --report: a table for a page")
    parser.add_argument("--report", nargs="+", type=pathlib.Path, metavar="FILE", help="a table of raw figures; of a row that is there twice the last")
    given = parser.parse_args()
    if given.list:
        for name, case in cases.CASES.items():
            print(f"{name:26}{case.title} ({case.unit})")
        return
    if given.report:
        (markdown if given.markdown else report)(merged(given.report))
        return
    if unknown := [name for name in given.cases if name not in cases.CASES]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(cases.CASES)}")
    peers = [name for name in given.peers.split(",") if name and name != "none"]
    if unknown := [name for name in peers if name not in proxies.PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(proxies.PEERS)}")
    ours = binaries(given.ours)
    machine.prepare()
    began = datetime.datetime.now()
    result = {"date": began.isoformat(timespec="seconds"), "machine": machine.facts(), "versions": versions(ours, peers),
              "options": {"rounds": given.rounds, "seconds": given.seconds, "driver": given.driver}, "cases": {}}
    given.results.mkdir(parents=True, exist_ok=True)
    names, failed = given.cases or list(cases.CASES), False
    path = given.results / f"{began:%Y-%m-%dT%H%M%S}.json"
    for name in names:
        with tempfile.TemporaryDirectory(dir="/dev/shm", ignore_cleanup_errors=True) as work:
            machine.certificate(pathlib.Path(work))
            options = cases.Options(ours, peers, given.driver, given.seconds, pathlib.Path(work))
            result["cases"][name] = run(cases.CASES[name], options, min(given.rounds, cases.CASES[name].rounds_max))
        path.write_text(json.dumps(result, indent=1) + "\n")
        report({"cases": {name: result["cases"][name]}})
        failed = failed or bool(result["cases"][name]["failed"])
    print(f"\nraw figures: {path}")
    sys.exit(1 if failed else 0)


def binaries(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words or [str(machine.ROOT / "target/release/shadowcat")]:
        label, equals, path = word.rpartition("=")
        path = path if equals else word
        label = label or ("shadowcat" if not found else f"shadowcat{len(found) + 1}")
        if not pathlib.Path(path).exists():
            if words:
                sys.exit(f"no binary {path}")
            subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=machine.ROOT, check=True)
        found[label] = path
    return found


def versions(ours: dict[str, str], peers: list[str]) -> dict[str, str]:
    said = {label: machine.version([binary, "--version"]) for label, binary in ours.items()}
    for name in peers:
        install, _, flag = proxies.PEERS[name]
        # Some say where they stand, which is this machine's own business.
        binary = install()
        version = machine.version([binary, flag]).replace(f"{pathlib.Path(binary).parent}/", "") if flag else None
        said[name] = version or "of bench/peers/pingora/Cargo.toml"
    return said


def run(case: cases.Case, options: cases.Options, rounds: int) -> dict:
    others, running = [], {}
    figures = {"title": case.title, "unit": case.unit, "at_most": case.at_most, "goal": case.goal, "subjects": {}, "failed": {}}
    try:
        subjects = case.subjects(options, others)
        figures["bases"] = {subject.label: subject.base for subject in subjects}
        for number in range(rounds):
            # Whoever comes first in one round comes last in the next.
            turn = number % len(subjects)
            for subject in subjects[turn:] + subjects[:turn]:
                label = subject.label
                if label in figures["failed"]:
                    continue
                try:
                    if case.fresh and label in running:
                        machine.stop(running.pop(label).process)
                    if label not in running:
                        running[label] = subject.start()
                        if not case.fresh:
                            subject.load(running[label])  # warms up
                    figures["subjects"].setdefault(label, []).append(subject.load(running[label]))
                except Failed as failure:
                    figures["failed"][label] = str(failure)
                    figures["subjects"].pop(label, None)
                finally:
                    if case.fresh and label in running:
                        machine.stop(running.pop(label).process)
    finally:
        for process in [one.process for one in running.values()] + others:
            machine.stop(process)
    return figures


def merged(paths: list[pathlib.Path]) -> dict:
    read = [json.loads(path.read_text()) for path in sorted(paths)]
    found = {name: case for one in read for name, case in one["cases"].items()}
    versions = {name: said for one in read for name, said in one["versions"].items()}
    order = [name for name in cases.CASES if name in found]
    return {"date": read[-1]["date"], "machine": read[-1]["machine"], "versions": versions, "cases": {name: found[name] for name in order}}


def ratios(case: dict, label: str, base: str | None) -> list[float]:
    """Of rounds of one number."""
    rounds = case["subjects"]
    if base == label or base not in rounds:
        return []
    return [mine["value"] / theirs["value"] for mine, theirs in zip(rounds[label], rounds[base])]


def markdown(result: dict) -> None:
    """A row for each case: ours, then everybody else, each with its ratio to the base."""
    machine_of, versions = result["machine"], "; ".join(result["versions"].values())
    print(f"{result['date'][:10]}, Linux {machine_of['kernel']}, {machine_of['cpus']} CPUs ({machine_of['cpu']}); {versions}.\n")
    print("| row | what | unit | shadowcat | others | ratio (range) | at most | goal |\n|---|---|---|---|---|---|---|---|")
    for name, case in result["cases"].items():
        middle = {label: statistics.median(one["value"] for one in rounds) for label, rounds in case["subjects"].items()}
        mine = next((label for label in reversed(middle) if label.startswith("shadowcat")), None)
        if not mine:
            continue
        base = case["bases"][mine]
        values = ratios(case, mine, base)
        ratio = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) of {base}" if values else ""
        others = ", ".join(f"{label} {value:.0f}" for label, value in middle.items() if label != mine)
        print(f"| `{name}` | {case['title']} | {case['unit']} | {middle[mine]:.0f} | {others} | {ratio} | {case['at_most']:g} | {case['goal']:g} |")


def report(result: dict) -> None:
    """A row for each proxy: median and range, and the ratio of rounds of one number."""
    for name, case in result["cases"].items():
        absolute = case["unit"].startswith("bytes")
        wanted = f"at most {case['at_most']:g}, goal {case['goal']:g}"
        print(f"\n{name}: {case['title']}; {case['unit']}, median (range); ratio to its base; {wanted}")
        for label, rounds in case["subjects"].items():
            values = [one["value"] for one in rounds]
            line = f"  {label:22}{statistics.median(values):9.0f} ({min(values):.0f} to {max(values):.0f})"
            base = case["bases"].get(label)
            if found := ratios(case, label, base):
                line += f"  {statistics.median(found):.3f} of {base} ({min(found):.3f} to {max(found):.3f})"
            for key, form in (("connections", "{:.0f} connections"), ("user_share", "user {:.2f}"), ("memory", "memory {:.0f} bytes"), ("p50_us", "p50 {:.0f} us"), ("p99_us", "p99 {:.0f} us")):
                if key in rounds[0]:
                    line += "  " + form.format(statistics.median(one[key] for one in rounds))
            if absolute and label not in proxies.PEERS:
                line += f"  ({statistics.median(values) / case['at_most']:.2f} of what it may be)"
            print(line, flush=True)
        for label, why in case.get("failed", {}).items():
            print(f"  {label:22} failed: {why[:300]}")


main()
