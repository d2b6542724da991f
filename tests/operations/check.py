"""Rules, runbook and dashboards beside what a node really exports.

    check.py files                        every alert has its section of the runbook, both languages, and the reverse
    check.py live PROMETHEUS NODE HOST    every metric and label in an expression occurs in a live exposition, and a real
                                          Prometheus that scrapes them has data for every expression of a dashboard

Fails with one line for each problem. Waits for data up to WITHIN seconds.
"""

import json
import math
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import promql_parser as promql
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2] / "docker"
WITHIN = 90
# Labels that Prometheus itself adds.
OWN_LABELS = {"job", "instance"}
# Not in an exposition, but made by Prometheus for each target.
OWN_METRICS = {"up"}
UNITS = {"reqps", "cps", "wps", "pps", "Bps", "bytes", "s", "short", "percentunit", "bool_on_off"}
CHINESE = re.compile("[\u4e00-\u9fff]")
ENGLISH = re.compile("[A-Za-z]{2}")


def rules(name):
    """All rules of a file."""
    groups = yaml.safe_load((ROOT / "prometheus" / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboards():
    """All dashboards, by file name."""
    paths = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def check_files():
    """What can be known without a node."""
    problems = []
    text = (ROOT / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    alerts = {rule["alert"]: rule for rule in rules("alerts.yml")}
    problems += [f"runbook.md: no alert {name}" for name in sections.keys() - alerts.keys()]
    tests = "".join(path.read_text(encoding="utf-8") for path in pathlib.Path(__file__).parent.glob("*.test.yml"))
    for name, rule in alerts.items():
        notes = rule.get("annotations", {})
        section = sections.get(name, "")
        if not (CHINESE.search(section) and re.search(r"^1\. ", section, re.M)):
            problems.append(f"{name}: no section in the runbook with numbered steps and Chinese")
        if notes.get("runbook_url") != f"docker/runbook.md#{name.lower()}":
            problems.append(f"{name}: runbook_url does not lead to its section")
        if not (ENGLISH.search(notes.get("summary", "")) and CHINESE.search(notes.get("summary_zh", ""))):
            problems.append(f"{name}: no summary in English and Chinese")
        if rule["labels"]["severity"] not in ("critical", "warning"):
            problems.append(f"{name}: unknown severity")
        if f'alertname="{name}"' not in tests:
            problems.append(f"{name}: no test in which it rings")
    for anchor in re.findall(r"\]\(#(\S+?)\)", text):
        if anchor not in {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.M)}:
            problems.append(f"runbook.md: #{anchor} leads nowhere")
    uids = set()
    for name, dashboard in dashboards().items():
        problems += dashboard_problems(name, dashboard)
        uids.add(dashboard["uid"])
    if len(uids) != len(dashboards()):
        problems.append("two dashboards have one uid")
    print(f"{len(alerts)} alerts with runbook and test, {len(uids)} dashboards")
    return problems


def dashboard_problems(name, dashboard):
    """Ids, places, units, titles and data sources of the panels."""
    ids, cells = set(), set()
    for panel in dashboard["panels"]:
        where = f"{name}: {panel['title']}"
        if panel["id"] in ids:
            yield f"{where}: a second panel {panel['id']}"
        ids.add(panel["id"])
        place = panel["gridPos"]
        mine = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])}
        if cells & mine or place["x"] + place["w"] > 24:
            yield f"{where}: lies over another, or sticks out"
        cells |= mine
        if panel["fieldConfig"]["defaults"]["unit"] not in UNITS:
            yield f"{where}: unknown unit"
        zh, _, en = panel["title"].partition(" / ")
        if not (en and ENGLISH.search(en) and (CHINESE.search(zh) or zh == en)):
            yield f"{where}: no title in Chinese and English"
        if any(part["datasource"]["uid"] != "${datasource}" for part in [panel, *panel["targets"]]):
            yield f"{where}: not the chosen data source"


def expressions():
    """(where, expression, whether it must have data) of all rules and panels."""
    for name in ("recording.yml", "alerts.yml"):
        for rule in rules(name):
            yield rule.get("record") or rule["alert"], rule["expr"], "record" in rule
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "40s")
                yield f"{name}: {panel['title']}", re.sub(r"\$(instance|host)\b", ".+", text), True


def selectors(node):
    """All selectors below a node of a parsed expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    elif isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, (promql.AggregateExpr, promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr)):
        yield from selectors(node.expr)
    elif not isinstance(node, (promql.NumberLiteral, promql.StringLiteral)):
        raise TypeError(f"unknown part of an expression: {type(node)}")


def fetch(url):
    """The body of a URL on this machine."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def exposition(text):
    """The label sets of each metric in Prometheus' text format."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        name, labels = re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?", line).groups()
        found.setdefault(name, []).append(dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")))
    return found


def unknown(expression, live, recorded):
    """What an expression names and nobody exports."""
    tree = promql.parse(expression)
    known = set(OWN_LABELS)
    for selector in selectors(tree):
        if selector.name in OWN_METRICS:
            continue
        if selector.name in recorded:
            known |= recorded[selector.name]
            continue
        if selector.name not in live:
            yield f"no metric {selector.name}"
            continue
        series = live[selector.name]
        known |= set().union(*series)
        for matcher in selector.matchers.matchers:
            if matcher.name in OWN_LABELS:
                continue
            if not any(matcher.name in labels for labels in series):
                yield f"{selector.name} has no label {matcher.name}"
            alternatives = matcher.value.split("|") if matcher.op == promql.MatchOp.Re else [matcher.value]
            if matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re):
                for value in alternatives:
                    if not any(re.fullmatch(value, labels.get(matcher.name, "")) for labels in series):
                        yield f"{selector.name} never has {matcher.name}={value!r}"
    for labels in re.findall(r"\b(?:by|without|on|ignoring) *\(([^)]*)\)", expression):
        for label in filter(None, map(str.strip, labels.split(","))):
            if label not in known:
                yield f"grouped by {label}, which nothing there has"


def has_data(prometheus, expression):
    """Whether a query gives at least one number."""
    answer = json.loads(fetch(f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
    result = answer["data"]["result"]
    samples = [result] if answer["data"]["resultType"] == "scalar" else [sample["value"] for sample in result]
    return any(math.isfinite(float(value)) for _, value in samples)


def check_live(prometheus, node, host):
    """What needs a node under load."""
    live = exposition(fetch(node)) | exposition(fetch(host))
    recorded = {}
    for rule in rules("recording.yml"):
        recorded[rule["record"]] = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
    all_of_them = list(expressions())
    problems = [f"{where}: {what}" for where, text, _ in all_of_them for what in unknown(text, live, recorded)]
    waiting = [(where, text) for where, text, needed in all_of_them if needed]
    asked, begun = len(waiting), time.monotonic()
    while waiting and time.monotonic() - begun < WITHIN:
        waiting = [(where, text) for where, text in waiting if not has_data(prometheus, text)]
        time.sleep(1 if waiting else 0)
    problems += [f"{where}: no data: {text}" for where, text in waiting]
    print(f"{len(all_of_them)} expressions parsed and beside {len(live)} live metrics, {asked} with data")
    return problems


def main():
    """Runs one of the checks."""
    problems = check_live(*sys.argv[2:]) if sys.argv[1] == "live" else check_files()
    for problem in sorted(set(problems)):
        print(f"FAILED {problem}")
    sys.exit(bool(problems))


main()
