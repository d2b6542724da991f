#!/usr/bin/env bash
# Pages behind scanned codes in a real browser: every hostile record, at the widths of a phone and of a desk, in Chinese
# and English. Nothing may run, load, or stick out; nor on the status page. Screenshots are left in target/browser for people to look at.
# The last line is "browser: N passed, M failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
JIEXI=${JIEXI:-$PWD/target/release/jiexi}
tools=${BROWSER_ENV:-$PWD/target/browser-env}
shots=$PWD/target/browser
work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$shots"

if [[ ! -x $tools/bin/python ]]; then python3 -m venv "$tools"; fi
"$tools/bin/pip" install --quiet --disable-pip-version-check playwright==1.55.0

. tests/support/ports.sh
http=$(free_port)
operations=$(free_port)
export JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HANDLE_PORT JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT=$http
export JIEXI_OPERATIONS_LISTEN=127.0.0.1:$operations JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0
JIEXI_HANDLE_PORT=$(free_port)
"$JIEXI" init --prefix 88.118.20 --address 127.0.0.1 --data "$work/data" >/dev/null
"$JIEXI" import tests/browser/hostile.ndjson --config "$work/data/jiexi.toml" >/dev/null
"$JIEXI" serve --config "$work/data/jiexi.toml" >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 600); do
    curl -sf "http://127.0.0.1:$operations/ready" >/dev/null && break
    sleep 0.1
done

cat >"$work/look.py" <<'END'
import json
import sys
import urllib.parse

from playwright.sync_api import sync_playwright

base, operations, records, shots = sys.argv[1:]
handles = [json.loads(line)["handle"] for line in open(records, encoding="utf-8")]
paths = ["/hdl/" + urllib.parse.quote(handle, safe="") + "?noredirect" for handle in handles]
paths += ["/", "/docs", "/hdl/88.118.20/nothing", "/hdl/0.NA%2F88.118.20?noredirect"]
passed, failed = 0, []
with sync_playwright() as play:
    browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    for width, language in ((360, "zh-CN"), (1280, "en")):
        context = browser.new_context(viewport={"width": width, "height": 740}, locale=language)
        page = context.new_page()
        seen = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("dialog", lambda dialog: (seen.append("dialog " + dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: seen.append("error " + str(error)))
        for place, path in enumerate(paths):
            seen.clear()
            page.goto(base + path, wait_until="load")
            problems = [url for url in seen if url.split("?")[0] != (base + path).split("?")[0]
                        and not url.endswith("/favicon.ico")]
            if page.title() == "PWNED":
                problems.append("a script ran")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if wide > 0:
                problems.append(f"{wide} px stick out")
            cut = page.evaluate("[...document.querySelectorAll('.v')].filter(e => e.scrollWidth > e.clientWidth).length")
            if cut:
                problems.append(f"{cut} values are cut off")
            hidden = page.evaluate("getComputedStyle(document.body).display == 'none' || !document.body.innerText.trim()")
            if hidden:
                problems.append("nothing is shown")
            foreign = page.evaluate(
                "[...document.querySelectorAll('script,iframe,img,object,embed,form,svg,meta[http-equiv]')].length")
            if foreign:
                problems.append(f"{foreign} elements that are not ours")
            links = page.evaluate("[...document.links].map(a => a.protocol)")
            problems += [f"link {link}" for link in links if link not in ("http:", "https:")]
            lang = page.evaluate("document.documentElement.lang")
            if lang[:2] != language[:2]:
                problems.append(f"language {lang}")
            page.screenshot(path=f"{shots}/{width}-{place:02}.png")
            if problems:
                failed.append(f"{width} {path}: {problems}")
            else:
                passed += 1
        # How the node is: the first point of its plots comes half a minute after its start.
        seen.clear()
        for _ in range(90):
            page.goto(operations + "/", wait_until="load")
            if page.locator("svg path.s0[d]:not([d=''])").count() >= 4:
                break
            page.wait_for_timeout(500)
        problems = [url for url in seen if url != operations + "/" and not url.endswith("/favicon.ico")]
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            problems.append(f"{wide} px stick out")
        shown = page.locator("body").inner_text()
        for word in ("节点状态" if language == "zh-CN" else "Node status", "88.118.20"):
            if word not in page.title() + shown:
                problems.append(f"{word} is not shown")
        if page.locator("svg").count() != 6 or page.locator("svg path.s0[d]:not([d=''])").count() < 4:
            problems.append("plots are missing")
        if page.evaluate("document.querySelectorAll('script,iframe,img,object,embed,form').length"):
            problems.append("elements that are not ours")
        page.screenshot(path=f"{shots}/{width}-status.png", full_page=True)
        if problems:
            failed.append(f"{width} status: {problems}")
        else:
            passed += 1
    browser.close()
for line in failed:
    print(line)
print(f"browser: {passed} passed, {len(failed)} failed")
sys.exit(bool(failed))
END
"$tools/bin/python" "$work/look.py" "http://127.0.0.1:$http" "http://127.0.0.1:$operations" tests/browser/hostile.ndjson "$shots"
