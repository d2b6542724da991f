//! What an operator should see first: conditions that alerts are raised for, as far as the node can tell by itself.
//!
//! Each has the name of its alert in `docker/prometheus/alerts.yml`, and so a section in `docker/runbook.md`. Prometheus
//! waits before it wakes somebody; this page says at once what is so. Whether the node is there, and how often it was started,
//! only others know.

use super::course::Point;
use crate::probe::Scrape;

/// Points of five minutes, a quarter and half of an hour, an hour, and of the six that are kept.
const FIVE: usize = 10;
const QUARTER: usize = 30;
const HALF: usize = 60;
const HOUR: usize = 120;
const ALL_HOURS: usize = super::course::POINTS;
/// The part of requests that may fail, over a month: as in `docker/prometheus/recording.yml`.
const BUDGET: f64 = 0.001;
/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// What conditions are judged by.
pub(super) struct Seen<'a> {
    /// The newest scrape.
    pub(super) scrape: &'a Scrape,
    /// The points, oldest first.
    pub(super) points: &'a [Point],
    /// Unix seconds.
    pub(super) now: u32,
}

impl Seen<'_> {
    fn is(&self, name: &str, label: &str, value: &str) -> bool {
        self.scrape.sum(name, &[(label, value)]) == 1.0
    }

    fn value(&self, name: &str) -> f64 {
        self.scrape.sum(name, &[])
    }

    fn last(&self, read: fn(&Point) -> f64) -> f64 {
        self.points.last().map_or(f64::NAN, read)
    }

    /// The sum of something over the last so many points.
    fn over(&self, points: usize, read: fn(&Point) -> f64) -> f64 {
        let from = self.points.len().saturating_sub(points);
        self.points[from..].iter().map(read).sum()
    }

    /// How much something grew within the last quarter of an hour.
    fn grew(&self, read: fn(&Point) -> f64) -> f64 {
        self.over(QUARTER, read)
    }

    /// The mean of something over five minutes, once there are as many.
    fn mean(&self, read: fn(&Point) -> f64) -> f64 {
        match self.points.len() {
            FIVE.. => self.over(FIVE, read) / FIVE as f64,
            _ => f64::NAN,
        }
    }

    /// Whether the error budget burns so many times too fast, over both spans. A few minutes are no span.
    fn burns(&self, times: f64, spans: [usize; 2]) -> bool {
        let burns = |span| {
            let (lost, asked) = (
                self.over(span, |point| point.faults),
                self.over(span, |point| point.asked),
            );
            lost > times * BUDGET * asked
        };
        self.points.len() >= FIVE && spans.into_iter().all(burns)
    }

    /// What will be free on the disk in so many days, as it went within the last hours; `NaN` before an hour is over.
    fn free_in(&self, days: f64) -> f64 {
        let (Some(first), Some(last), HOUR..) =
            (self.points.first(), self.points.last(), self.points.len())
        else {
            return f64::NAN;
        };
        let slope = (last.disk_free - first.disk_free) / f64::from(last.time - first.time);
        last.disk_free + slope * days * DAY
    }

    /// Whether the first certificate expires within so many days.
    fn expires_within(&self, days: f64) -> bool {
        let expiry = self
            .scrape
            .least("jiexi_certificate_expiry_timestamp_seconds");
        expiry.is_some_and(|at| at - f64::from(self.now) < days * DAY)
    }
}

/// A condition.
pub(super) struct Sign {
    /// The alert's name.
    pub(super) alert: &'static str,
    /// Whether it wakes somebody.
    pub(super) critical: bool,
    holds: fn(&Seen<'_>) -> bool,
    /// What it means, in Chinese and in English.
    pub(super) meaning: (&'static str, &'static str),
}

/// Every condition, the worst first.
const ALL: [Sign; 30] = [
    Sign {
        alert: "JiexiErrorBudgetBurnsFast",
        critical: true,
        holds: |seen| seen.burns(14.4, [FIVE, HOUR]),
        meaning: (
            "请求失败很多：一个月的错误预算两天用完",
            "So many requests fail that a month's budget is gone in two days",
        ),
    },
    Sign {
        alert: "JiexiErrorBudgetBurns",
        critical: true,
        holds: |seen| seen.burns(6.0, [HALF, ALL_HOURS]) && !seen.burns(14.4, [FIVE, HOUR]),
        meaning: (
            "请求失败较多：一个月的错误预算五天用完",
            "So many requests fail that a month's budget is gone in five days",
        ),
    },
    Sign {
        alert: "JiexiStoreError",
        critical: true,
        holds: |seen| seen.grew(|point| point.store_errors) > 0.0,
        meaning: (
            "存储在一刻钟内出过错",
            "The store has had an error within a quarter of an hour",
        ),
    },
    Sign {
        alert: "JiexiReadOnly",
        critical: true,
        holds: |seen| seen.is("jiexi_store_state", "state", "read_only"),
        meaning: (
            "节点只读：不接受变更，解析照常",
            "The node takes no changes; look-ups go on",
        ),
    },
    Sign {
        alert: "JiexiChangesFail",
        critical: true,
        holds: |seen| seen.grew(|point| point.changes_failed) > 0.0,
        meaning: (
            "变更因节点故障而失败",
            "Changes fail for a fault of the node",
        ),
    },
    Sign {
        alert: "JiexiDiskFull",
        critical: true,
        holds: |seen| seen.value("jiexi_disk_free_bytes") < seen.value("jiexi_disk_reserve_bytes"),
        meaning: (
            "存储所在磁盘已满：拒绝变更，解析照常",
            "The disk of the store is full: changes are refused; look-ups go on",
        ),
    },
    Sign {
        alert: "JiexiDiskLow",
        critical: true,
        holds: |seen| {
            let reserve = seen.value("jiexi_disk_reserve_bytes");
            (reserve..2.0 * reserve).contains(&seen.value("jiexi_disk_free_bytes"))
        },
        meaning: (
            "存储所在磁盘空间不足，即将拒绝变更",
            "The disk of the store is nearly full; soon changes are refused",
        ),
    },
    Sign {
        alert: "JiexiCertificateExpiresSoon",
        critical: true,
        holds: |seen| seen.expires_within(3.0),
        meaning: ("证书三天内过期", "A certificate expires within three days"),
    },
    Sign {
        alert: "JiexiHistoryLost",
        critical: true,
        holds: |seen| seen.grew(|point| point.history_lost) > 0.0,
        meaning: (
            "解析与变更日志有缺失",
            "The log of resolutions and changes has gaps",
        ),
    },
    Sign {
        alert: "JiexiSuperseded",
        critical: true,
        holds: |seen| seen.is("jiexi_role", "role", "superseded"),
        meaning: (
            "本节点已被另一节点取代，不接受变更",
            "Another node took the place of this one; it takes no changes",
        ),
    },
    Sign {
        alert: "JiexiStandbyBehind",
        critical: true,
        holds: |seen| seen.value("jiexi_follow_lag_seconds") > 60.0,
        meaning: (
            "备机落后主节点一分钟以上",
            "This standby is more than a minute behind its primary",
        ),
    },
    Sign {
        alert: "JiexiStandbyCut",
        critical: false,
        holds: |seen| {
            seen.is("jiexi_role", "role", "standby") && seen.value("jiexi_follow_connected") == 0.0
        },
        meaning: (
            "备机连不上主节点",
            "This standby does not reach its primary",
        ),
    },
    Sign {
        alert: "JiexiErrorBudgetBurnsSlowly",
        critical: false,
        // Three days are what the alert looks at; here six hours are known.
        holds: |seen| {
            let all = [ALL_HOURS, ALL_HOURS];
            seen.points.len() >= ALL_HOURS
                && seen.burns(1.0, all)
                && !seen.burns(6.0, [HALF, ALL_HOURS])
                && !seen.burns(14.4, [FIVE, HOUR])
        },
        meaning: (
            "六小时内超过千分之一的请求失败：照此本月的错误预算不够用",
            "More than 1 in 1,000 requests failed within six hours: as it goes the month's budget will not last",
        ),
    },
    Sign {
        alert: "JiexiStoreNotReady",
        critical: false,
        holds: |seen| {
            ["loading", "verifying", "degraded"]
                .iter()
                .any(|state| seen.is("jiexi_store_state", "state", state))
        },
        meaning: (
            "存储尚未就绪或正在重建",
            "The store is not ready, or is being made anew",
        ),
    },
    Sign {
        alert: "JiexiSlow",
        critical: false,
        holds: |seen| seen.last(|point| point.latency[1]) > 0.25,
        meaning: (
            "P99 时延超过 250 毫秒",
            "One request in a hundred takes longer than 250 ms",
        ),
    },
    Sign {
        alert: "JiexiSyncSlow",
        critical: false,
        holds: |seen| seen.last(|point| point.sync) > 0.1,
        meaning: (
            "日志落盘慢：变更在等磁盘",
            "Syncing the journal is slow: changes wait for the disk",
        ),
    },
    Sign {
        alert: "JiexiStoreLag",
        critical: false,
        holds: |seen| seen.value("jiexi_store_lag_changes") > 250_000.0,
        meaning: (
            "磁盘状态落后日志太多",
            "The state on disk is far behind the journal",
        ),
    },
    Sign {
        alert: "JiexiShedding",
        critical: false,
        holds: |seen| {
            let asked = seen.last(|point| point.requests.iter().sum());
            seen.last(|point| point.shed) > 0.05 * asked
        },
        meaning: (
            "超过 5% 的请求被限流或未得到服务",
            "More than 5 % of requests are too many and are not served",
        ),
    },
    Sign {
        alert: "JiexiForwardingFails",
        critical: false,
        holds: |seen| {
            let failed = seen.mean(|point| point.not_forwarded);
            failed > 0.1 && failed > 0.05 * seen.mean(|point| point.forwarded)
        },
        meaning: (
            "向其他节点的查询有 5% 以上得不到应答",
            "More than 5 % of the questions to other nodes get no answer",
        ),
    },
    Sign {
        alert: "JiexiRefusals",
        critical: false,
        holds: |seen| seen.mean(|point| point.wrong_proofs) > 0.5,
        meaning: (
            "身份验证屡次被拒：客户端配置有误，或有人在猜密钥",
            "Many wrong proofs of identity: a client is wrong, or somebody guesses",
        ),
    },
    Sign {
        alert: "JiexiKernelDrops",
        critical: false,
        holds: |seen| seen.mean(|point| point.kernel_drops) > 1.0,
        meaning: ("内核在丢弃报文", "The kernel drops datagrams"),
    },
    Sign {
        alert: "JiexiDescriptors",
        critical: false,
        holds: |seen| {
            let most = seen.value("process_max_fds");
            most > 0.0 && seen.value("process_open_fds") > 0.8 * most
        },
        meaning: (
            "文件描述符已用五分之四",
            "Four fifths of the file descriptors are in use",
        ),
    },
    Sign {
        alert: "JiexiSnapshotOverdue",
        critical: false,
        holds: |seen| {
            let usual = (0.25 * seen.value("jiexi_index_bytes")).max(f64::from(1 << 30));
            seen.value("jiexi_journal_bytes") > 2.0 * usual
        },
        meaning: (
            "日志增长很大却没有新快照",
            "The journal has grown and no snapshot was taken",
        ),
    },
    Sign {
        alert: "JiexiSnapshotOld",
        critical: false,
        holds: |seen| {
            let taken = seen.value("jiexi_snapshot_timestamp_seconds");
            let lacks =
                seen.value("jiexi_journal_sequence") > seen.value("jiexi_snapshot_sequence");
            taken > 0.0 && f64::from(seen.now) - taken > 7.0 * DAY && lacks
        },
        meaning: (
            "最新快照已超过一周，且缺少之后的变更",
            "The newest snapshot is older than a week and lacks later changes",
        ),
    },
    Sign {
        alert: "JiexiDiskFillsUp",
        critical: false,
        holds: |seen| seen.free_in(4.0) < seen.value("jiexi_disk_reserve_bytes"),
        meaning: (
            "照此速度，存储所在磁盘四天内将满",
            "As it goes the disk of the store is full within four days",
        ),
    },
    Sign {
        alert: "JiexiCertificateExpires",
        critical: false,
        holds: |seen| seen.expires_within(21.0) && !seen.expires_within(3.0),
        meaning: ("证书三周内过期", "A certificate expires within three weeks"),
    },
    Sign {
        alert: "JiexiBackupOld",
        critical: false,
        holds: |seen| {
            let last = seen.value("jiexi_backup_last_success_timestamp_seconds");
            last > 0.0 && f64::from(seen.now) - last > 2.0 * DAY
        },
        meaning: (
            "两天以上没有成功的备份",
            "No backup has succeeded for more than two days",
        ),
    },
    Sign {
        alert: "JiexiReloadFailed",
        critical: false,
        holds: |seen| seen.value("jiexi_config_last_reload_successful") == 0.0,
        meaning: (
            "磁盘上的配置或证书被拒绝；节点仍按旧的运行",
            "The configuration on disk, or a certificate, was refused; the node runs with the old one",
        ),
    },
    Sign {
        alert: "JiexiHistoryBehind",
        critical: false,
        holds: |seen| seen.value("jiexi_history_fill_ratio") > 0.8,
        meaning: (
            "解析日志快要跟不上请求",
            "The log of resolutions hardly keeps up with what is asked",
        ),
    },
    Sign {
        alert: "JiexiHistoryFull",
        critical: false,
        holds: |seen| {
            let budget = seen.value("jiexi_history_budget_bytes");
            budget > 0.0 && seen.value("jiexi_history_bytes") > 0.8 * budget
        },
        meaning: (
            "解析日志已用掉五分之四的空间",
            "The log of resolutions has used four fifths of its budget",
        ),
    },
];

/// The conditions that hold, the worst first.
pub(super) fn holding(seen: &Seen<'_>) -> Vec<&'static Sign> {
    const ALL_OF_THEM: &[Sign] = &ALL;
    ALL_OF_THEM
        .iter()
        .filter(|sign| (sign.holds)(seen))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERTS: &str = include_str!("../../docker/prometheus/alerts.yml");
    const RUNBOOK: &str = include_str!("../../docker/runbook.md");

    /// Goal: whoever sees a condition finds its alert and its section in the runbook.
    #[test]
    fn named_like_alerts() {
        for sign in &ALL {
            let rule = format!("- alert: {}\n", sign.alert);
            let (_, rest) = ALERTS.split_once(&rule).expect(sign.alert);
            let severity = rest.split("severity: ").nth(1).expect("a severity");
            assert_eq!(
                severity.starts_with("critical"),
                sign.critical,
                "{}",
                sign.alert
            );
            assert!(
                RUNBOOK.contains(&format!("## {}\n", sign.alert)),
                "{}",
                sign.alert
            );
        }
    }

    /// Goal: nothing is wrong with a healthy node, and each fault shows.
    #[test]
    fn healthy_and_not() {
        let healthy = "jiexi_backup_last_success_timestamp_seconds 0\njiexi_store_state{state=\"ready\"} 1\njiexi_disk_free_bytes 100\njiexi_disk_reserve_bytes 10\n\
                       jiexi_config_last_reload_successful 1\n";
        let names = |text: &str, points: &[Point]| -> Vec<&str> {
            let scrape = Scrape::read(text);
            let seen = Seen {
                scrape: &scrape,
                points,
                now: 1_000_000,
            };
            holding(&seen).iter().map(|sign| sign.alert).collect()
        };
        let calm = Point {
            requests: [10.0, 0.0, 0.0],
            ..Point::default()
        };
        assert!(names(healthy, std::slice::from_ref(&calm)).is_empty());
        let bad = "jiexi_backup_last_success_timestamp_seconds 800000\njiexi_store_state{state=\"read_only\"} 1\njiexi_disk_free_bytes 10\njiexi_disk_reserve_bytes 10\n\
                   jiexi_config_last_reload_successful 0\njiexi_history_fill_ratio 0.9\njiexi_store_lag_changes 300000\n\
                   jiexi_certificate_expiry_timestamp_seconds{protocol=\"http\"} 1000100\n";
        let points = [
            Point {
                store_errors: 1.0,
                ..calm.clone()
            },
            Point {
                shed: 1.0,
                sync: 0.2,
                latency: [0.1, 0.3, 0.4],
                ..calm.clone()
            },
        ];
        assert_eq!(
            names(bad, &points),
            [
                "JiexiStoreError",
                "JiexiReadOnly",
                "JiexiDiskLow",
                "JiexiCertificateExpiresSoon",
                "JiexiSlow",
                "JiexiSyncSlow",
                "JiexiStoreLag",
                "JiexiShedding",
                "JiexiBackupOld",
                "JiexiReloadFailed",
                "JiexiHistoryBehind",
            ]
        );
        let full = healthy.replace("free_bytes 100", "free_bytes 9");
        assert_eq!(names(&full, std::slice::from_ref(&calm)), ["JiexiDiskFull"]);
        let hour = |point: Point| -> Vec<Point> {
            let at = |time: usize| Point {
                time: 30 * time as u32,
                disk_free: 1_000.0 - time as f64,
                ..point.clone()
            };
            (0..HOUR).map(at).collect()
        };
        let burning = |faults: f64| {
            hour(Point {
                faults,
                asked: 1_000.0,
                wrong_proofs: 1.0,
                kernel_drops: 2.0,
                forwarded: 4.0,
                not_forwarded: 0.5,
                ..calm.clone()
            })
        };
        let more = healthy.to_owned()
            + "process_max_fds 10\nprocess_open_fds 9\njiexi_journal_bytes 3000000000\n";
        let rest = [
            "JiexiForwardingFails",
            "JiexiRefusals",
            "JiexiKernelDrops",
            "JiexiDescriptors",
            "JiexiSnapshotOverdue",
            "JiexiDiskFillsUp",
        ];
        for (faults, burns) in [
            (20.0, &["JiexiErrorBudgetBurnsFast"][..]),
            (8.0, &["JiexiErrorBudgetBurns"][..]),
            (1.0, &[][..]),
        ] {
            assert_eq!(names(&more, &burning(faults)), [burns, &rest[..]].concat());
        }
        // A minute of it is no span.
        assert!(names(healthy, &burning(20.0)[..2]).is_empty());
    }

    /// Goal: what goes on slowly shows, and neither what is soon over nor what is worse by another name.
    #[test]
    fn slow_faults() {
        let names = |text: &str, points: &[Point]| -> Vec<&str> {
            let scrape = Scrape::read(text);
            let seen = Seen {
                scrape: &scrape,
                points,
                now: 1_000_000,
            };
            holding(&seen).iter().map(|sign| sign.alert).collect()
        };
        let text = "jiexi_config_last_reload_successful 1\njiexi_journal_sequence 7\n";
        let failing = |faults: f64, points: usize| {
            let point = Point {
                faults,
                asked: 1_000.0,
                ..Point::default()
            };
            vec![point; points]
        };
        for (faults, points, expected) in [
            (1.0, ALL_HOURS, &[][..]),
            (2.0, ALL_HOURS, &["JiexiErrorBudgetBurnsSlowly"][..]),
            (2.0, ALL_HOURS - 1, &[][..]),
            (8.0, ALL_HOURS, &["JiexiErrorBudgetBurns"][..]),
            (20.0, ALL_HOURS, &["JiexiErrorBudgetBurnsFast"][..]),
        ] {
            assert_eq!(names(text, &failing(faults, points)), expected, "{faults}");
        }
        for (taken, sequence, old) in [
            (395_000, 6, true),
            (395_000, 7, false),
            (396_000, 6, false),
            (0, 0, false),
        ] {
            let text = format!(
                "{text}jiexi_snapshot_timestamp_seconds {taken}\njiexi_snapshot_sequence {sequence}\n"
            );
            let expected: &[&str] = if old { &["JiexiSnapshotOld"] } else { &[] };
            assert_eq!(names(&text, &[]), expected, "{taken} {sequence}");
        }
    }
}
