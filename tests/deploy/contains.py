"""Whether a YAML file has all that another one has, and what it may have besides: contains.py GUIDE OURS [LEFT-OUT...]"""

import sys

import yaml


def missing(wanted, found, place=""):
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            if key in found:
                yield from missing(value, found[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(wanted, list) and isinstance(found, list):
        for number, value in enumerate(wanted):
            if all(any(True for _ in missing(value, other)) for other in found):
                yield f"{place}[{number}]: {value}"
    elif wanted != found:
        yield f"{place}: {wanted} is {found}"


guide, ours = (list(yaml.safe_load_all(open(path))) for path in sys.argv[1:3])
gone = [text for one, other in zip(guide, ours, strict=True) for text in missing(one, other) if text not in sys.argv[3:]]
sys.exit("\n".join(gone) or 0)
