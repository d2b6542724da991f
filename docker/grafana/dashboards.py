#!/usr/bin/env python3
"""The dashboards, from one short source: each panel is a line with its titles, unit and queries.

    docker/grafana/dashboards.py            writes dashboards/*.json beside this file
    docker/grafana/dashboards.py --check    fails when a file is not what this source makes

`J` stands for the labels of the chosen nodes, `H` for those of the chosen hosts. `[W]` is the window that Grafana finds
right for the zoom. tests/operations checks every query against a live node and a real Prometheus.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
J = 'job="jiexi",instance=~"$instance"'
H = 'job="node",instance=~"$host"'
UP, DOWN = "up is good", "down is good"


def panel(zh, en, unit, *queries, kind="timeseries", steps=(), width=8, stack=False, note=""):
    """A panel. `queries` are (expression, legend); `steps` are (from, colour) above green."""
    return {"zh": zh, "en": en, "unit": unit, "queries": queries, "kind": kind, "steps": steps,
            "width": width, "stack": stack, "note": note}


def stat(zh, en, unit, query, steps=(), note=""):
    """One number."""
    return panel(zh, en, unit, (query, "{{instance}}"), kind="stat", steps=steps, width=4, note=note)


def rate(metric, by, labels=""):
    """Sum of rates, by labels."""
    more = "," + labels if labels else ""
    return f"sum by ({by}) (rate({metric}{{{J}{more}}}[W]))"


def quantile(q, metric, by="", labels=""):
    """A quantile of a histogram, by labels."""
    more = "," + labels if labels else ""
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{J}{more}}}[W])))"


def gauge(metric, labels=""):
    """A gauge as it is."""
    more = "," + labels if labels else ""
    return f"{metric}{{{J}{more}}}"


def standby(expression):
    """Of standbys alone: others have the metric, too, and it says nothing there."""
    return f'{expression} and on (job, instance) jiexi_role{{{J},role="standby"}} == 1'


def latencies(protocol, width=12):
    """Quantiles of one protocol."""
    metric, labels = "jiexi_request_duration_seconds", f'protocol="{protocol}"'
    return panel("时延", "Latency", "s", *[
        (quantile(q, metric, "transport", labels), f"p{name} {{{{transport}}}}")
        for q, name in ((0.5, "50"), (0.99, "99"), (0.999, "99.9"))
    ], steps=((0.05, "yellow"), (0.25, "red")), width=width)


def front(protocol):
    """What every protocol has."""
    labels = f'protocol="{protocol}"'
    return [
        panel("请求", "Requests", "reqps", (rate("jiexi_requests_total", "transport, op", labels) + " > 0",
                                           "{{op}} {{transport}}"), width=12, stack=True),
        latencies(protocol),
        panel("应答", "Responses", "reqps", (rate("jiexi_responses_total", "outcome", labels) + " > 0", "{{outcome}}"),
              width=8, stack=True),
        panel("丢弃", "Dropped", "reqps", (rate("jiexi_dropped_total", "reason", labels), "{{reason}}"), width=8,
              steps=((1, "yellow"),)),
        panel("流量", "Traffic", "Bps",
              (rate("jiexi_received_bytes_total", "transport", labels), "in {{transport}}"),
              (rate("jiexi_sent_bytes_total", "transport", labels), "out {{transport}}"), width=8),
        panel("连接", "Connections", "short", (gauge("jiexi_connections", labels), "{{transport}}")),
        panel("新建连接", "Connections opened", "cps",
              (rate("jiexi_connections_opened_total", "transport", labels), "{{transport}}")),
        panel("断开原因", "Connections closed, why", "cps",
              (rate("jiexi_connections_closed_total", "why", labels), "{{why}}")),
    ]


CERTIFICATE = "min by (instance) (jiexi_certificate_expiry_timestamp_seconds{%s}) - time()" % J
SNAPSHOT = "time() - (jiexi_snapshot_timestamp_seconds{%s} > 0)" % J

DASHBOARDS = {
    "overview": ("概览", "Overview", [
        stat("在线", "Up", "bool_on_off", f"up{{{J}}}", ((UP, 1),)),
        stat("请求率", "Requests", "reqps", "sum by (instance) (jiexi:requests:rate5m{%s})" % J),
        stat("失败率", "Failing", "percentunit", "jiexi:slo_errors:ratio_rate5m{%s}" % J,
             ((0.001, "yellow"), (0.01, "red")), "Objective: 0.1 %. 目标：不超过 0.1 %。"),
        stat("P99 时延", "p99 latency", "s", "max by (instance) (jiexi:request_duration_seconds:p99_5m{%s} >= 0)" % J,
             ((0.05, "yellow"), (0.25, "red"))),
        stat("标识记录", "Records", "short", gauge("jiexi_index_records")),
        stat("证书剩余", "Certificate left", "s", CERTIFICATE, ((DOWN, 3 * 86400, 21 * 86400),)),
        panel("请求", "Requests", "reqps", (rate("jiexi_requests_total", "protocol, transport"),
                                           "{{protocol}} {{transport}}"), width=12, stack=True),
        panel("时延 P99", "Latency p99", "s", ("jiexi:request_duration_seconds:p99_5m{%s} >= 0" % J, "{{protocol}}"),
              ("jiexi:request_duration_seconds:p50_5m{%s} >= 0" % J, "p50 {{protocol}}"), width=12,
              steps=((0.05, "yellow"), (0.25, "red"))),
        panel("应答", "Responses", "reqps", (rate("jiexi_responses_total", "outcome") + " > 0", "{{outcome}}"),
              stack=True),
        panel("失败", "Errors", "percentunit",
              *[("jiexi:slo_errors:ratio_rate%s{%s}" % (w, J), w) for w in ("5m", "1h", "6h", "3d")],
              steps=((0.001, "yellow"), (0.0144, "red")), note="Objective: 0.1 %. 目标：不超过 0.1 %。"),
        panel("限流", "Shed", "percentunit", ("jiexi:shed:ratio_rate5m{%s}" % J, "{{instance}}"),
              steps=((0.05, "red"),)),
        panel("存储状态", "State of the store", "short", (gauge("jiexi_store_state") + " == 1", "{{state}}")),
        panel("处理器", "Processor", "percentunit", ("rate(process_cpu_seconds_total{%s}[W])" % J, "{{instance}}"),
              note="1 is one core. 1 为一个核。"),
        panel("内存", "Memory", "bytes", (gauge("process_resident_memory_bytes"), "RSS {{instance}}")),
        panel("版本", "Build", "short", (gauge("jiexi_build_info"), "{{version}} {{commit}}")),
        panel("运行时间", "Running for", "s", ("time() - process_start_time_seconds{%s}" % J, "{{instance}}")),
        panel("配置", "Configuration", "s",
              ("time() - jiexi_config_last_reload_success_timestamp_seconds{%s}" % J, "age {{instance}}")),
        panel("配置有效", "Configuration good", "bool_on_off",
              (gauge("jiexi_config_last_reload_successful"), "{{instance}}"), steps=((UP, 1),)),
        panel("文件描述符", "Descriptors", "percentunit",
              ("process_open_fds{%s} / process_max_fds{%s}" % (J, J), "{{instance}}"), steps=((0.8, "red"),)),
        panel("证书剩余", "Certificates left", "s",
              ("jiexi_certificate_expiry_timestamp_seconds{%s} - time()" % J, "{{protocol}}"),
              steps=((DOWN, 3 * 86400, 21 * 86400),)),
    ]),
    "handle": ("Handle 协议", "Handle", front("handle") + [
        panel("索引查询", "Look-ups in the index", "reqps", (rate("jiexi_lookups_total", "result"), "{{result}}"),
              width=12),
        panel("内核丢包", "Kernel drops", "reqps",
              (rate("jiexi_udp_kernel_drops_total", "protocol", 'protocol="handle"'), "{{protocol}}"), width=12,
              steps=((1, "red"),)),
        panel("会话", "Sessions", "short", (gauge("jiexi_sessions"), "{{instance}}"), width=12),
        panel("本地前缀", "Homed prefixes", "short", (gauge("jiexi_prefixes_homed"), "{{instance}}"), width=12),
    ]),
    "dns": ("域名系统", "DNS", front("dns") + [
        panel("内核丢包", "Kernel drops", "reqps",
              (rate("jiexi_udp_kernel_drops_total", "protocol", 'protocol="dns"'), "{{protocol}}"), width=12,
              steps=((1, "red"),)),
        panel("超出预算", "Over the budget of a network", "percentunit",
              (rate("jiexi_dropped_total", "protocol", 'protocol="dns",transport="udp",reason="rate_limited"')
               + " / clamp_min(" + rate("jiexi_requests_total", "protocol", 'protocol="dns",transport="udp"')
               + ", 1e-9)", "{{protocol}}"), width=12, steps=((0.05, "yellow"),)),
    ]),
    "http": ("HTTP 接口", "HTTP", front("http") + [
        panel("会话", "Sessions", "short", (gauge("jiexi_http_sessions"), "{{instance}}")),
        panel("明文凭据", "Credentials over plain HTTP", "reqps",
              ("rate(jiexi_http_plain_credentials_total{%s}[W])" % J, "{{instance}}"), steps=((0.01, "red"),),
              note="Their owners must change them. 应通知其所有者更换。"),
        panel("TLS 握手失败", "Failed TLS handshakes", "cps",
              ("rate(jiexi_tls_handshakes_failed_total{%s}[W])" % J, "{{instance}}"), steps=((1, "yellow"),)),
        panel("Handle over HTTP", "Handle over HTTP", "reqps",
              (rate("jiexi_requests_total", "op", 'protocol="handle",transport="http"'), "{{op}}")),
        panel("解析日志", "Log of resolutions", "bytes", (gauge("jiexi_history_bytes"), "used"),
              (gauge("jiexi_history_budget_bytes"), "budget")),
        panel("日志缺失", "Lost of the log", "short",
              ("increase(jiexi_history_lost_total{%s}[W])" % J, "entries"),
              ("increase(jiexi_history_cut_total{%s}[W])" % J, "days"), steps=((1, "red"),)),
        panel("日志缓冲", "Pages of the log", "percentunit", (gauge("jiexi_history_fill_ratio"), "fullest"),
              steps=((0.8, "yellow"),)),
        panel("批量", "Batches", "short", (gauge("jiexi_batches"), "{{instance}}")),
        panel("批量行", "Lines of batches", "reqps", ("rate(jiexi_batch_lines_total{%s}[W])" % J, "{{instance}}")),
        panel("作业", "Jobs", "short", (gauge("jiexi_jobs"), "{{state}}"),
              note="queued also waits for a quota. queued 也包括等待配额。"),
        panel("转发", "Forwarded", "reqps", (rate("jiexi_forwarded_total", "result"), "{{result}}"),
              note="stale and failed grow when a home is down. 归属节点不可用时 stale 与 failed 增长。"),
        panel("向其他节点查询", "Asked at other nodes", "reqps", ("rate(jiexi_forward_fetches_total{%s}[W])" % J, "asked"),
              ("rate(jiexi_forward_forbidden_total{%s}[W])" % J, "forbidden"),
              (gauge("jiexi_forward_waiting"), "waiting")),
        panel("转发缓存", "Remembered answers", "bytes", (gauge("jiexi_forward_cache_bytes"), "{{instance}}")),
    ]),
    "store": ("存储、日志与索引", "Store, journal, index", [
        panel("状态", "State", "short", (gauge("jiexi_store_state") + " == 1", "{{state}}")),
        panel("错误", "Errors", "short", ("increase(jiexi_store_errors_total{%s}[W])" % J, "{{part}}"),
              steps=((1, "red"),)),
        panel("磁盘剩余", "Disk free", "bytes", (gauge("jiexi_disk_free_bytes"), "free"),
              (gauge("jiexi_disk_reserve_bytes"), "no writes below")),
        panel("落盘时延", "Sync of the journal", "s",
              *[(quantile(q, "jiexi_journal_sync_duration_seconds"), f"p{name}")
                for q, name in ((0.5, "50"), (0.99, "99"), (0.999, "99.9"))], steps=((0.1, "red"),)),
        panel("提交时延", "Commit", "s",
              *[(quantile(q, "jiexi_commit_duration_seconds"), f"p{name}")
                for q, name in ((0.5, "50"), (0.99, "99"), (0.999, "99.9"))], steps=((0.25, "red"),)),
        panel("每次落盘的变更", "Changes of a sync", "short",
              *[(quantile(q, "jiexi_commit_batch_changes"), f"p{name}") for q, name in ((0.5, "50"), (0.99, "99"))]),
        panel("日志", "Journal", "bytes", (gauge("jiexi_journal_bytes"), "{{instance}}")),
        panel("落后的变更", "Changes behind", "short", (gauge("jiexi_store_lag_changes"), "{{instance}}"),
              steps=((250000, "yellow"), (500000, "red"))),
        panel("序号", "Sequence", "short", (gauge("jiexi_journal_sequence"), "journal"),
              (gauge("jiexi_store_applied_sequence"), "applied")),
        panel("快照时龄", "Age of the snapshot", "s", (SNAPSHOT, "{{instance}}"), steps=((7 * 86400, "yellow"),)),
        panel("磁盘占用", "On disk", "bytes", (gauge("jiexi_store_bytes"), "state"),
              (gauge("jiexi_snapshot_bytes"), "snapshot"), (gauge("jiexi_journal_bytes"), "journal")),
        panel("索引内存", "Index in memory", "bytes", (gauge("jiexi_index_bytes"), "all"),
              (gauge("jiexi_index_dead_bytes"), "dead")),
        panel("索引记录", "Records", "short", (gauge("jiexi_index_records"), "{{instance}}"), width=12),
        panel("索引加载", "Loaded", "percentunit", (gauge("jiexi_index_loaded_ratio"), "{{instance}}"), width=12),
        panel("主备角色", "Primary or standby", "short", (gauge("jiexi_role") + " == 1", "{{role}} {{instance}}")),
        panel("备机落后的时间", "Standby behind, time", "s",
              (standby(gauge("jiexi_follow_lag_seconds")), "{{instance}}"), steps=((60, "red"),),
              note="Changes of so long are lost with the primary. 主节点失效时会丢失这段时间的变更。"),
        panel("备机缺少的变更", "Standby behind, changes", "short",
              (standby(gauge("jiexi_follow_lag_sequences")), "{{instance}}")),
        panel("备机连通主节点", "Standby reaches its primary", "bool_on_off",
              (standby(gauge("jiexi_follow_connected")), "{{instance}}"), steps=((UP, 1),)),
        panel("备机连接失败", "Standby, failed connections", "short",
              (standby("increase(jiexi_follow_failures_total{%s}[W])" % J), "{{instance}}"), steps=((1, "yellow"),)),
        panel("备机重取快照", "Standby, snapshots taken in", "short",
              (standby("increase(jiexi_follow_snapshots_total{%s}[W])" % J), "{{instance}}"), steps=((1, "yellow"),),
              note="It could not go on by the journal. 备机无法靠日志续传。"),
    ]),
    "changes": ("变更与拒绝", "Writes and refusals", [
        panel("变更", "Changes", "wps", (rate("jiexi_changes_total", "kind, result") + " > 0", "{{kind}} {{result}}"),
              width=12, stack=True),
        panel("失败的变更", "Failed changes", "short",
              ("sum by (kind) (increase(jiexi_changes_total{%s,result=\"failed\"}[W]))" % J, "{{kind}}"), width=12,
              steps=((1, "red"),)),
        panel("身份验证", "Proofs of identity", "reqps",
              (rate("jiexi_authentications_total", "method, result") + " > 0", "{{method}} {{result}}"), width=12,
              stack=True),
        panel("被拒的身份验证", "Refused proofs", "reqps",
              (rate("jiexi_authentications_total", "method", 'result="refused"'), "{{method}}"), width=12,
              steps=((0.5, "red"),)),
        panel("拒绝的请求", "Refused requests", "reqps",
              (rate("jiexi_responses_total", "protocol, outcome", 'outcome=~"denied|invalid|exists|limited|busy|error"'),
               "{{protocol}} {{outcome}}"), width=12),
        panel("丢弃的报文", "Dropped messages", "reqps",
              (rate("jiexi_dropped_total", "protocol, reason") + " > 0", "{{protocol}} {{reason}}"), width=12),
    ]),
    "host": ("主机", "Host", [
        panel("处理器", "Processor", "percentunit",
              ('1 - avg by (instance) (rate(node_cpu_seconds_total{%s,mode="idle"}[W]))' % H, "{{instance}}"),
              steps=((0.8, "yellow"), (0.95, "red"))),
        panel("负载", "Load", "short", ("node_load1{%s}" % H, "1 min"), ("node_load15{%s}" % H, "15 min")),
        panel("内存可用", "Memory available", "bytes", ("node_memory_MemAvailable_bytes{%s}" % H, "available"),
              ("node_memory_MemTotal_bytes{%s}" % H, "total")),
        panel("磁盘剩余", "File systems free", "percentunit",
              ('node_filesystem_avail_bytes{%s,fstype!~"tmpfs|ramfs"} / node_filesystem_size_bytes{%s,fstype!~"tmpfs|ramfs"}'
               % (H, H), "{{mountpoint}}"), steps=((DOWN, 0.05, 0.15),)),
        panel("磁盘忙", "Disks busy", "percentunit", ("rate(node_disk_io_time_seconds_total{%s}[W])" % H, "{{device}}"),
              steps=((0.9, "red"),)),
        panel("磁盘读写", "Disk traffic", "Bps", ("rate(node_disk_written_bytes_total{%s}[W])" % H, "write {{device}}"),
              ("rate(node_disk_read_bytes_total{%s}[W])" % H, "read {{device}}")),
        panel("网络", "Network", "Bps", ("rate(node_network_receive_bytes_total{%s}[W])" % H, "in {{device}}"),
              ("rate(node_network_transmit_bytes_total{%s}[W])" % H, "out {{device}}")),
        panel("UDP 接收错误", "UDP receive errors", "pps",
              ("rate(node_netstat_Udp_InErrors{%s}[W])" % H, "{{instance}}"), steps=((1, "red"),)),
        panel("时钟偏差", "Clock off by", "s", ("node_timex_offset_seconds{%s}" % H, "{{instance}}")),
    ]),
}


def thresholds(steps):
    """Grafana's thresholds; green unless said otherwise."""
    if steps and steps[0][0] == UP:
        found = [(None, "red"), (steps[0][1], "green")]
    elif steps and steps[0][0] == DOWN:
        found = [(None, "red"), (steps[0][1], "yellow"), (steps[0][2], "green")]
    else:
        found = [(None, "green"), *steps]
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in found]}


def rendered(source, number, x, y):
    """One panel as Grafana reads it."""
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    custom = {"fillOpacity": 10, "showPoints": "never"}
    if source["stack"]:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    if source["steps"] and source["kind"] == "timeseries":
        custom["thresholdsStyle"] = {"mode": "line"}
    result = {
        "id": number,
        "type": source["kind"],
        "title": f"{source['zh']} / {source['en']}",
        "datasource": datasource,
        "gridPos": {"x": x, "y": y, "w": source["width"], "h": 4 if source["kind"] == "stat" else 8},
        "fieldConfig": {"defaults": {"unit": source["unit"], "thresholds": thresholds(source["steps"])}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": datasource, "legendFormat": legend,
             "expr": expression.replace("[W]", "[$__rate_interval]")}
            for place, (expression, legend) in enumerate(source["queries"])
        ],
    }
    if source["note"]:
        result["description"] = source["note"]
    if source["kind"] == "timeseries":
        result["fieldConfig"]["defaults"]["custom"] = custom
        result["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    else:
        result["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return result


def variable(name, label, query):
    """A variable of the values of a label."""
    return {"name": name, "label": label, "type": "query", "query": {"query": query, "refId": name},
            "datasource": {"type": "prometheus", "uid": "${datasource}"}, "refresh": 2, "includeAll": True,
            "multi": True, "allValue": ".+", "current": {"text": "All", "value": "$__all"}}


def dashboard(name):
    """A dashboard: panels from left to right, top to bottom."""
    zh, en, sources = DASHBOARDS[name]
    panels, x, y, height = [], 0, 0, 0
    for number, source in enumerate(sources, 1):
        if x + source["width"] > 24:
            x, y, height = 0, y + height, 0
        panels.append(rendered(source, number, x, y))
        x += source["width"]
        height = max(height, panels[-1]["gridPos"]["h"])
    chosen = (variable("host", "主机 / Host", 'label_values(node_uname_info{job="node"}, instance)') if name == "host"
              else variable("instance", "节点 / Node", 'label_values(jiexi_build_info{job="jiexi"}, instance)'))
    return {
        "uid": f"jiexi-{name}", "title": f"jiexi · {zh} / {en}", "tags": ["jiexi"], "schemaVersion": 38, "version": 1,
        "editable": True, "timezone": "browser", "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["jiexi"], "title": "jiexi", "asDropdown": True, "includeVars": True,
                   "keepTime": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "数据源 / Data source", "type": "datasource", "query": "prometheus"}, chosen]},
        "panels": panels,
    }


def main():
    """Writes or checks the files."""
    HERE.mkdir(exist_ok=True)
    wrong = []
    for name in DASHBOARDS:
        path = HERE / f"{name}.json"
        text = json.dumps(dashboard(name), ensure_ascii=False, indent=1) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong.append(path.name)
    if wrong:
        sys.exit(f"not what dashboards.py makes (run it): {', '.join(wrong)}")


main()
