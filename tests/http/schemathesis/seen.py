"""Says how often each operation of the description (the first argument) succeeded in each run (the lines of the second).

Ends with 1 when one never did where it must: what is only ever refused is not tested.
"""

import collections
import json
import sys

# The runs that must succeed with an operation. One that is not named here must in some run.
MUST = {
    "resolve": ["anonymous", "read", "batch", "write", "session"],
    "follow": ["anonymous"],
    "put": ["write", "session"],
    "delete": ["write", "session"],
    "list": ["read", "write", "session"],
    "identity": ["read", "batch", "write", "session"],
    "batchResolve": ["batch"],
    "quota": ["batch"],
    "open_session": ["anonymous", "login"],
    "session": ["login"],
    "end_session": ["login"],
    "log_in": ["login"],
    "log_in_by_put": ["login"],
    "createJob": ["write"],
    "getJob": ["write"],
}
# Operations that no run may carry out: a token for them copies the node, or makes it take no more changes. The tests of
# standbys do.
ELSEWHERE = {"replication", "replicationSnapshot", "replicationJournal", "replicationRun", "supersede"}
# Operations that succeed only while a job is in the right state, which is chance. tests/http/jobs.rs carries them out.
BY_CHANCE = {"pauseJob", "resumeJob", "cancelJob"}
# Runs that must find records with an operation.
FIND = {"resolve": ["anonymous", "read", "batch", "write", "session"], "batchResolve": ["batch"]}

with open(sys.argv[1], encoding="utf-8") as file:
    paths = json.load(file)["paths"]
operations = [operation["operationId"] for path in paths.values() for operation in path.values()]

asked, good, found = (collections.Counter() for _ in range(3))
with open(sys.argv[2], encoding="utf-8") as file:
    for line in map(json.loads, file):
        key = line["operation"], line["run"]
        asked[key] += 1
        good[key] += 200 <= line["status"] < 400
        found[key] += line["found"]

runs = sorted({run for _, run in asked})
missing = []
for operation in operations:
    counts = (f"{run} {good[operation, run]}/{asked[operation, run]}" for run in runs if asked[operation, run])
    print(f"{operation}: {', '.join(counts)}")
    for run in MUST.get(operation, []):
        if not good[operation, run]:
            missing.append(f"{operation} never succeeded in the run {run}")
    for run in FIND.get(operation, []):
        if not found[operation, run]:
            missing.append(f"{operation} never found a record in the run {run}")
    if operation not in ELSEWHERE | BY_CHANCE and not any(good[operation, run] for run in runs):
        missing.append(f"{operation} never succeeded")
print("\n".join(missing))
sys.exit(bool(missing))
