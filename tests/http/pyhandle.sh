#!/usr/bin/env bash
# pyhandle's own live suites, read and write, against a node over HTTPS. All pass but those named below, whose faults are
# the client's own; one of them that passes fails the run, so that the list stays true.
# The last line is "pyhandle: N passed, M failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
tools=${PYHANDLE_ENV:-$PWD/target/pyhandle}
work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

if [[ ! -x $tools/bin/python ]]; then python3 -m venv "$tools"; fi
"$tools/bin/pip" install --quiet --disable-pip-version-check pyhandle==1.5.0 mock==5.2.0

. tests/support/ports.sh
http=$(free_port)
operations=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
export JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations JIEXI_ADMINISTRATION_ADMINS=300:88.118.20/USER
export JIEXI_ADMINISTRATION_FULL_ACCESS=true JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
JIEXI_HANDLE_PORT=$(free_port)
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
# The user has a public value beside its secret one; the read record has TEST1 as its third value.
cat >"$work/records.ndjson" <<'END'
{"handle":"88.118.20/USER","values":[{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"88.118.20/USER","index":300,"permissions":"111111111111"}}},{"index":300,"type":"HS_SECKEY","data":"geheim","permissions":"1100"}]}
{"handle":"88.118.20/READ","values":[{"index":4,"type":"TEST4","data":"val4"},{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"88.118.20/USER","index":300,"permissions":"011111110011"}}},{"index":111,"type":"TEST1","data":"val1"},{"index":333,"type":"TEST3","data":"val3"},{"index":2222,"type":"TEST2","data":"val2"}]}
END
"$JIEXI" import "$work/records.ndjson" --config "$work/data/jiexi.toml" >/dev/null
"$JIEXI" serve --config "$work/data/jiexi.toml" >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$operations/ready" >/dev/null && break
    sleep 0.1
done

site=$("$tools/bin/python" -c 'import os, pyhandle; print(os.path.dirname(pyhandle.__file__))')
cat >"$site/tests/resources/testvalues_for_integration_tests_IGNORE.json" <<END
{"user": "300:88.118.20/USER", "password": "geheim",
 "handle_server_url_read": "https://127.0.0.1:$http", "handle_server_url_write": "https://127.0.0.1:$http",
 "url_extension_REST_API": "/api/handles/", "handle_for_read_tests": "88.118.20/READ",
 "handle_globally_resolvable": "88.118.20/READ", "handle_to_be_created": "88.118.20/NEW",
 "handle_to_be_modified": "88.118.20/MODIFIED", "HTTPS_verify": false}
END
cat >"$work/run.py" <<'END'
import sys
import unittest
import warnings

warnings.simplefilter("ignore")
# The client's own faults, and what needs the open network. Anything else must pass, and these must not.
KNOWN = {
    "test_register_handle": "additional_URLs are dropped by the client",
    "test_generate_and_register_handle": "calls a function that the client no longer has",
    "test_delete_handle_inexistent": "the client raises, the test expects None",
    "test_instantiate_with_credentials": "\"Client not provided\"",
    "test_instantiate_with_credentials_inexistentuser": "\"Client not provided\"",
    "test_instantiate_with_credentials_config_override": "\"Client not provided\"",
    "test_instantiate_with_credentials_config": "\"Client not provided\"",
    "test_global_resolve": "asks hdl.handle.net",
}
suite = unittest.TestSuite()
for name in ("read", "write"):
    suite.addTests(unittest.defaultTestLoader.loadTestsFromName(
        f"pyhandle.tests.testcases.handleclient_{name}_integration_test"))
names = set()
def walk(tests):
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            walk(test)
        else:
            names.add(test._testMethodName)
walk(suite)
result = unittest.TextTestRunner(stream=open(sys.argv[1], "w"), verbosity=2).run(suite)
failed = {test._testMethodName for test, _ in result.failures + result.errors}
for test, trace in result.failures + result.errors:
    if test._testMethodName not in KNOWN:
        print(trace)
unexpected = sorted(failed - set(KNOWN))
cured = sorted(set(KNOWN) - failed)
for name in unexpected:
    print(f"failed: {name}")
for name in cured:
    print(f"passes, but is listed as the client's fault: {name}")
for name in sorted(set(KNOWN) & failed):
    print(f"known: {name}: {KNOWN[name]}")
print(f"pyhandle: {len(names - failed)} passed, {len(unexpected) + len(cured)} failed")
sys.exit(bool(unexpected or cured))
END
"$tools/bin/python" "$work/run.py" "$work/pyhandle.log"
