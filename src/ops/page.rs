//! The status page: how the node is, in Chinese or English, with plots. It loads nothing and runs nothing.

use std::fmt::Write as _;

use super::Readiness;
use super::course::{PROTOCOLS, Point, QUANTILES};
use super::plot::{self, Line, Unit};
use super::signs::{Seen, holding};
use crate::busiest::{Busy, Ranking};
use crate::probe::Scrape;
use crate::server::http::html::text;
use crate::server::http::language::Language;

/// Prefixes on the page.
pub(super) const PREFIXES: usize = 20;
/// How often a browser asks again, seconds.
const REFRESH: u32 = 30;

/// The style of the page; fit for a phone.
pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--a:#0b57d0;--b:#b06000;--c:#188038;--bad:#b3261e;--warn:#b06000}\
@media(prefers-color-scheme:dark){:root{--a:#8ab4f8;--b:#fdd663;--c:#81c995;--bad:#f2b8b5;--warn:#fdd663}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:80rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\
h1{font-size:1.25rem;margin:.25rem 0}h2{font-size:1rem;margin:0 0 .25rem}\
.m,.axis,dt{color:GrayText;font-size:.875rem}\
.grid{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));margin:.75rem 0}\
.card,.sign{border:1px solid var(--line);border-radius:.5rem;padding:.5rem .75rem;min-width:0}\
.sign{margin:.5rem 0;border-inline-start:.3rem solid var(--warn)}.critical{border-inline-start-color:var(--bad)}\
.fine{border-inline-start-color:var(--c)}\
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.5rem .75rem;margin:0}\
dd{margin:0;font-size:1.125rem;font-variant-numeric:tabular-nums}dl div{min-width:0}\
svg{display:block;width:100%;height:8rem;background:var(--soft)}\
path{fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke;stroke-linejoin:round}\
.g{stroke:var(--line);stroke-width:1}.s0{stroke:var(--a)}.s1{stroke:var(--b)}.s2{stroke:var(--c)}\
.l0{color:var(--a)}.l1{color:var(--b)}.l2{color:var(--c)}\
.axis{display:flex;justify-content:space-between;margin:.125rem 0 0}\
.legend{margin:.125rem 0 0;font-size:.875rem}.legend span{margin-inline-end:1rem}\
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.25rem .5rem .25rem 0;text-align:start}\
td.n,th.n{text-align:end;font-variant-numeric:tabular-nums}\
a{color:var(--a)}footer{margin-top:1rem;border-top:1px solid var(--line);padding-top:.5rem;font-size:.875rem}";

/// What the page is made of.
pub(super) struct Shown<'a> {
    pub(super) scrape: &'a Scrape,
    pub(super) points: &'a [Point],
    /// The prefixes asked for most; `None` without a log of resolutions.
    pub(super) busiest: Option<Ranking>,
    /// Whether it is ready, and why not.
    pub(super) readiness: &'a Readiness,
    /// Unix seconds.
    pub(super) now: u32,
}

/// The whole page.
pub(super) fn render(shown: &Shown<'_>, language: Language) -> String {
    let title = language.pick("节点状态", "Node status");
    let mut out = format!(
        "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\"><title>{title} · jiexi</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH}\"><meta name=\"referrer\" content=\"no-referrer\">\
         <style>{STYLE}</style></head><body><main>",
        language.tag()
    );
    head(shown, language, &mut out);
    signs(shown, language, &mut out);
    figures(shown, language, &mut out);
    out.push_str("<div class=\"grid\">");
    plots(shown, language, &mut out);
    out.push_str("</div><div class=\"grid\">");
    prefixes(shown, language, &mut out);
    store(shown, language, &mut out);
    out.push_str("</div></main>");
    let _ = writeln!(
        out,
        "<footer><a href=\"metrics\">/metrics</a> · <a href=\"health\">/health</a> · <a href=\"ready\">/ready</a> · {} · {}</footer>\
         </body></html>",
        language.pick(
            "<a href=\"?lang=en\">English</a>",
            "<a href=\"?lang=zh\">中文</a>"
        ),
        language.pick(
            "此页每 30 秒刷新；曲线最长六小时",
            "this page is made anew every 30 seconds; plots show up to six hours"
        )
    );
    out
}

fn head(shown: &Shown<'_>, language: Language, out: &mut String) {
    let reason = &shown.readiness.reason;
    let version = shown.scrape.label("jiexi_build_info", "version");
    let since = shown.scrape.sum("process_start_time_seconds", &[]);
    let _ = write!(
        out,
        "<h1>jiexi {} — {}</h1><p class=\"m\">{} {} {}</p>",
        text(version.unwrap_or_default()),
        text(headline(shown.readiness, language)),
        language.pick("已运行", "running for"),
        length(f64::from(shown.now) - since, language),
        text(language.pick(&reason.chinese, &reason.english)),
    );
}

/// How the node is, in a word or two: what it does for those who ask comes before the state of its store.
fn headline(readiness: &Readiness, language: Language) -> &str {
    match (&*readiness.state, readiness.role) {
        ("ready" | "degraded", "superseded") => language.pick("已被取代", "superseded"),
        ("ready" | "degraded", _) if !readiness.ready => {
            language.pick("备机落后太多", "a standby, too far behind")
        }
        ("ready" | "degraded", "standby") => language.pick("备机，就绪", "a standby, ready"),
        ("ready" | "degraded", _) if !readiness.takes_changes => {
            language.pick("就绪，拒绝变更", "ready, changes are refused")
        }
        (state, _) => state_name(state, language),
    }
}

/// The state of the store in words.
fn state_name(state: &str, language: Language) -> &str {
    match state {
        "ready" => language.pick("就绪", "ready"),
        "loading" => language.pick("正在加载", "loading"),
        "verifying" => language.pick("正在校验", "verifying"),
        "degraded" => language.pick("正在重建磁盘状态", "degraded"),
        "read_only" => language.pick("只读", "read only"),
        other => other,
    }
}

fn signs(shown: &Shown<'_>, language: Language, out: &mut String) {
    let seen = Seen {
        scrape: shown.scrape,
        points: shown.points,
        now: shown.now,
    };
    let holding = holding(&seen);
    let calm = holding.is_empty();
    if calm {
        let none = language.pick("没有告警", "No alerts");
        let _ = write!(out, "<p class=\"sign fine\">{none}</p>");
    }
    for sign in holding {
        let (chinese, english) = sign.meaning;
        let class = if sign.critical {
            "sign critical"
        } else {
            "sign"
        };
        let _ = write!(
            out,
            "<p class=\"{class}\"><b>{}</b> {} <span class=\"m\">{}</span></p>",
            language.pick(chinese, english),
            if sign.critical {
                language.pick("（严重）", "(critical)")
            } else {
                ""
            },
            sign.alert,
        );
    }
    if !calm {
        let next = language.pick(
            "每个名称是值班手册的一节，内有步骤：docker/runbook.md，安装包中为 /usr/share/doc/jiexi/runbook.md",
            "Each name is a section of the runbook, with the steps: docker/runbook.md, in the package \
             /usr/share/doc/jiexi/runbook.md",
        );
        let _ = write!(out, "<p class=\"m\">{next}</p>");
    }
}

/// One number with its name.
fn figure(name: &str, value: &str, out: &mut String) {
    let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", text(value));
}

/// How far a standby is behind its primary.
fn behind(shown: &Shown<'_>, language: Language, out: &mut String) {
    let scrape = shown.scrape;
    if scrape.sum("jiexi_role", &[("role", "standby")]) != 1.0 {
        return;
    }
    let link = match scrape.sum("jiexi_follow_connected", &[]) == 1.0 {
        true => language.pick("已连接", "connected"),
        false => language.pick("未连接", "not connected"),
    };
    for (name, value) in [
        (
            language.pick("备机与主节点", "standby: the primary"),
            link.to_owned(),
        ),
        (
            language.pick("落后时间", "behind it"),
            Unit::Seconds.show(scrape.sum("jiexi_follow_lag_seconds", &[])),
        ),
        (
            language.pick("落后变更数", "changes missing"),
            Unit::Count.show(scrape.sum("jiexi_follow_lag_sequences", &[])),
        ),
    ] {
        figure(name, &value, out);
    }
}

fn figures(shown: &Shown<'_>, language: Language, out: &mut String) {
    let last = shown.points.last();
    let of = |read: fn(&Point) -> f64| last.map_or(f64::NAN, read);
    let scrape = shown.scrape;
    let hits = scrape.sum("jiexi_lookups_total", &[("result", "hit")]);
    let lookups = scrape.sum("jiexi_lookups_total", &[]);
    let share = if lookups > 0.0 {
        format!("{:.1} %", 100.0 * hits / lookups)
    } else {
        "–".into()
    };
    let all = |point: &Point| point.requests.iter().sum::<f64>();
    out.push_str("<div class=\"card\"><dl>");
    behind(shown, language, out);
    for (name, value) in [
        (
            language.pick("请求／秒", "requests/s"),
            Unit::Count.show(of(all)),
        ),
        (
            language.pick("命中率（启动以来）", "hits since the start"),
            share,
        ),
        (
            language.pick("P50 时延", "p50 latency"),
            Unit::Seconds.show(of(|point| point.latency[0])),
        ),
        (
            language.pick("P99 时延", "p99 latency"),
            Unit::Seconds.show(of(|point| point.latency[1])),
        ),
        (
            language.pick("P99.9 时延", "p99.9 latency"),
            Unit::Seconds.show(of(|point| point.latency[2])),
        ),
        (
            language.pick("变更／秒", "changes/s"),
            Unit::Count.show(of(|point| point.changes)),
        ),
        (
            language.pick("标识数", "records"),
            Unit::Count.show(scrape.sum("jiexi_index_records", &[])),
        ),
        (
            language.pick("前缀数", "prefixes"),
            Unit::Count.show(scrape.sum("jiexi_prefixes_homed", &[])),
        ),
        (
            language.pick("连接数", "connections"),
            Unit::Count.show(scrape.sum("jiexi_connections", &[])),
        ),
        (
            language.pick("内存", "memory"),
            Unit::Octets.show(scrape.sum("process_resident_memory_bytes", &[])),
        ),
    ] {
        figure(name, &value, out);
    }
    out.push_str("</dl></div>");
}

/// The name of a line in a plot, and what it shows of a point.
type Series<'a> = (&'a str, fn(&Point) -> f64);

/// A card with a plot of some series.
fn plot(shown: &Shown<'_>, title: &str, unit: Unit, series: &[Series<'_>], out: &mut String) {
    let lines: Vec<Line> = series
        .iter()
        .map(|(name, read)| Line {
            name: (*name).to_owned(),
            points: shown
                .points
                .iter()
                .map(|point| (point.time, read(point)))
                .collect(),
        })
        .collect();
    let _ = write!(
        out,
        "<section class=\"card\"><h2>{title}</h2>{}",
        plot::svg(&lines, unit, shown.now, title)
    );
    out.push_str("<p class=\"legend\">");
    for (place, line) in lines.iter().enumerate() {
        let last = line.points.last().map_or(f64::NAN, |(_, value)| *value);
        let _ = write!(
            out,
            "<span class=\"l{place}\">{} {}</span>",
            line.name,
            unit.show(last)
        );
    }
    out.push_str("</p></section>");
}

fn plots(shown: &Shown<'_>, language: Language, out: &mut String) {
    let names = ["Handle", "HTTP", "DNS"];
    debug_assert_eq!(names.len(), PROTOCOLS.len());
    plot(
        shown,
        language.pick("请求／秒", "Requests a second"),
        Unit::Count,
        &[
            (names[0], |point| point.requests[0]),
            (names[1], |point| point.requests[1]),
            (names[2], |point| point.requests[2]),
        ],
        out,
    );
    debug_assert_eq!(QUANTILES, [0.5, 0.99, 0.999]);
    plot(
        shown,
        language.pick("应答时延", "Time to an answer"),
        Unit::Seconds,
        &[
            ("P50", |point| point.latency[0]),
            ("P99", |point| point.latency[1]),
            ("P99.9", |point| point.latency[2]),
        ],
        out,
    );
    plot(
        shown,
        language.pick(
            "未命中、拒绝、未服务（每秒）",
            "Not found, refused, not served, a second",
        ),
        Unit::Count,
        &[
            (language.pick("未找到", "not found"), |point| {
                point.misses
            }),
            (language.pick("拒绝", "refused"), |point| point.refusals),
            (language.pick("未服务", "not served"), |point| {
                point.faults
            }),
        ],
        out,
    );
    plot(
        shown,
        language.pick("变更／秒", "Changes a second"),
        Unit::Count,
        &[(language.pick("已提交", "committed"), |point| {
            point.changes
        })],
        out,
    );
    plot(
        shown,
        language.pick("日志落盘 P99", "Sync of the journal, p99"),
        Unit::Seconds,
        &[("fdatasync", |point| point.sync)],
        out,
    );
    plot(
        shown,
        language.pick("内存", "Memory"),
        Unit::Octets,
        &[("RSS", |point| point.memory)],
        out,
    );
}

fn prefixes(shown: &Shown<'_>, language: Language, out: &mut String) {
    let title = language.pick(
        "最近一两小时查询最多的前缀",
        "Prefixes asked for most within the last hour or two",
    );
    let _ = write!(out, "<section class=\"card\"><h2>{title}</h2>");
    match &shown.busiest {
        None => out.push_str(language.pick(
            "<p class=\"m\">解析日志已关闭（[history] enabled），因此没有统计。</p>",
            "<p class=\"m\">Not counted: the log of resolutions is off ([history] enabled).</p>",
        )),
        Some(Ranking { top, .. }) if top.is_empty() => {
            out.push_str(language.pick(
                "<p class=\"m\">还没有查询。</p>",
                "<p class=\"m\">Nothing was asked yet.</p>",
            ));
        }
        Some(Ranking { top, seen }) => {
            let _ = write!(
                out,
                "<table><tr><th>{}</th><th class=\"n\">{}</th><th class=\"n\">%</th></tr>",
                language.pick("前缀", "prefix"),
                language.pick("查询（至少）", "questions, at least")
            );
            for Busy { name, count } in top {
                let _ = write!(
                    out,
                    "<tr><td>{}</td><td class=\"n\">{count}</td><td class=\"n\">{:.1}</td></tr>",
                    text(name),
                    100.0 * *count as f64 / *seen as f64
                );
            }
            out.push_str("</table>");
        }
    }
    out.push_str("</section>");
}

fn store(shown: &Shown<'_>, language: Language, out: &mut String) {
    let value = |name: &str| shown.scrape.sum(name, &[]);
    let age = |name: &str| match value(name) {
        0.0 => language.pick("无", "none").to_owned(),
        at => length(f64::from(shown.now) - at, language),
    };
    let snapshot = age("jiexi_snapshot_timestamp_seconds");
    let backup = age("jiexi_backup_last_success_timestamp_seconds");
    let title = language.pick("存储、日志、快照", "Store, journal, snapshot");
    let _ = write!(out, "<section class=\"card\"><h2>{title}</h2><dl>");
    let octets = |name: &str| Unit::Octets.show(value(name));
    for (name, shown) in [
        (
            language.pick("日志序号", "journal sequence"),
            format!("{}", value("jiexi_journal_sequence")),
        ),
        (
            language.pick("落后变更数", "changes behind"),
            format!("{}", value("jiexi_store_lag_changes")),
        ),
        (
            language.pick("日志大小", "journal"),
            octets("jiexi_journal_bytes"),
        ),
        (
            language.pick("磁盘状态", "state on disk"),
            octets("jiexi_store_bytes"),
        ),
        (
            language.pick("快照大小", "snapshot"),
            octets("jiexi_snapshot_bytes"),
        ),
        (language.pick("快照距今", "age of the snapshot"), snapshot),
        (language.pick("备份距今", "age of the backup"), backup),
        (
            language.pick("索引内存", "index"),
            octets("jiexi_index_bytes"),
        ),
        (
            language.pick("其中已废弃", "of that dead"),
            octets("jiexi_index_dead_bytes"),
        ),
        (
            language.pick("磁盘余量", "disk free"),
            octets("jiexi_disk_free_bytes"),
        ),
        (
            language.pick("余量低于此值则拒写", "changes refused below"),
            octets("jiexi_disk_reserve_bytes"),
        ),
        (
            language.pick("解析日志", "log of resolutions"),
            octets("jiexi_history_bytes"),
        ),
        (
            language.pick("存储错误（启动以来）", "store errors since the start"),
            format!("{}", value("jiexi_store_errors_total")),
        ),
    ] {
        figure(name, &shown, out);
    }
    out.push_str("</dl></section>");
}

/// A time in words.
fn length(seconds: f64, language: Language) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    let (count, chinese, english) = match (days, hours, minutes) {
        (2.., _, _) => (days, "天", "days"),
        (_, 2.., _) => (hours, "小时", "hours"),
        (_, _, 2..) => (minutes, "分钟", "minutes"),
        _ => (seconds, "秒", "seconds"),
    };
    format!("{count} {}", language.pick(chinese, english))
}

#[cfg(test)]
mod tests {
    use super::super::Said;
    use super::*;

    /// Goal: a hostile prefix is text, in both languages; without a log the page says so.
    #[test]
    fn escaped_and_in_both_languages() {
        let scrape = Scrape::read("jiexi_build_info{commit=\"x\",version=\"0.1.0\"} 1\n");
        let ready = Readiness {
            ready: true,
            takes_changes: true,
            state: "ready".into(),
            reason: Said::default(),
            role: "primary",
            standing: None,
        };
        let mut shown = Shown {
            scrape: &scrape,
            points: &[],
            busiest: Some(Ranking {
                top: vec![Busy {
                    name: "<script>\u{202E}".into(),
                    count: 3,
                }],
                seen: 4,
            }),
            readiness: &ready,
            now: 0,
        };
        let english = render(&shown, Language::English);
        assert!(english.contains("&lt;script&gt;<span class=\"c\">U+202E</span></td><td class=\"n\">3</td><td class=\"n\">75.0"));
        assert!(!english.contains("<script"));
        shown.busiest = None;
        let chinese = render(&shown, Language::Chinese);
        assert!(
            chinese.contains("<h1>jiexi 0.1.0 — 就绪</h1>") && chinese.contains("解析日志已关闭")
        );
        // What is wrong is said in the language of the page, and no node that gave way is called ready.
        let reason = || Said {
            chinese: "本节点已被取代".into(),
            english: "another node".into(),
        };
        let gone = Readiness {
            ready: false,
            takes_changes: false,
            reason: reason(),
            role: "superseded",
            ..ready.clone()
        };
        shown.readiness = &gone;
        let chinese = render(&shown, Language::Chinese);
        assert!(chinese.contains("— 已被取代</h1>") && chinese.contains("本节点已被取代</p>"));
        assert!(
            !chinese.contains("another node") && !chinese.contains("就绪"),
            "{chinese}"
        );
        let full = Readiness {
            takes_changes: false,
            reason: reason(),
            ..ready.clone()
        };
        shown.readiness = &full;
        assert!(render(&shown, Language::English).contains("ready, changes are refused</h1>"));
    }
}
