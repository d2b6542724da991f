//! Every metric: name, kind, labels, help. The one table; a test compares it with a live scrape.

use prometheus::proto::MetricType;

/// What one metric is called and means.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The name in the exposition; base units, counters end in `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// The label names, each from a closed set.
    pub labels: &'static [&'static str],
    /// One sentence for the reader of a dashboard.
    pub help: &'static str,
}

macro_rules! names {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Name = Name {
                name: $name,
                kind: MetricType::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them.
        pub const ALL: &[Name] = &[$($constant),*];
    };
}

names! {
    BUILD_INFO = "jiexi_build_info", GAUGE, ["version", "commit"], "The running build; always 1.";
    REQUESTS = "jiexi_requests_total", COUNTER, ["protocol", "transport", "op"], "Requests decoded, by operation.";
    RESPONSES = "jiexi_responses_total", COUNTER, ["protocol", "transport", "outcome"], "Responses made, by outcome.";
    DROPPED = "jiexi_dropped_total", COUNTER, ["protocol", "transport", "reason"], "Messages that got no answer, by reason.";
    DURATION = "jiexi_request_duration_seconds", HISTOGRAM, ["protocol", "transport"], "Time from receipt to answer; over UDP that of the batch.";
    RECEIVED = "jiexi_received_bytes_total", COUNTER, ["protocol", "transport"], "Bytes received in messages.";
    SENT = "jiexi_sent_bytes_total", COUNTER, ["protocol", "transport"], "Bytes sent in messages.";
    KERNEL_DROPS = "jiexi_udp_kernel_drops_total", COUNTER, ["protocol"], "Datagrams the kernel dropped because a receive buffer was full.";
    CONNECTIONS = "jiexi_connections", GAUGE, ["protocol", "transport"], "Open connections.";
    CONNECTIONS_OPENED = "jiexi_connections_opened_total", COUNTER, ["protocol", "transport"], "Connections accepted.";
    CONNECTIONS_CLOSED = "jiexi_connections_closed_total", COUNTER, ["protocol", "transport", "why"], "Connections closed, by reason.";
    LOOKUPS = "jiexi_lookups_total", COUNTER, ["result"], "Look-ups in the index, by result.";
    INDEX_RECORDS = "jiexi_index_records", GAUGE, [], "Records in the index.";
    INDEX_BYTES = "jiexi_index_bytes", GAUGE, [], "Bytes the index holds.";
    INDEX_DEAD_BYTES = "jiexi_index_dead_bytes", GAUGE, [], "Bytes of the index that no record uses any more.";
    INDEX_LOADED = "jiexi_index_loaded_ratio", GAUGE, [], "How much of the index is loaded, 0 to 1.";
    CHANGES = "jiexi_changes_total", COUNTER, ["kind", "result"], "Changes asked for, by kind and result.";
    COMMIT_DURATION = "jiexi_commit_duration_seconds", HISTOGRAM, [], "Time from submission to durability of a batch.";
    SYNC_DURATION = "jiexi_journal_sync_duration_seconds", HISTOGRAM, [], "Time of one write and fdatasync of the journal.";
    COMMIT_BATCH = "jiexi_commit_batch_changes", HISTOGRAM, [], "Changes made durable by one sync.";
    JOURNAL_SEQUENCE = "jiexi_journal_sequence", GAUGE, [], "Sequence number of the last durable change.";
    JOURNAL_BYTES = "jiexi_journal_bytes", GAUGE, [], "Bytes of journal kept.";
    STORE_APPLIED = "jiexi_store_applied_sequence", GAUGE, [], "Sequence number up to which the materialised state is fed.";
    STORE_LAG = "jiexi_store_lag_changes", GAUGE, [], "Durable changes the materialised state has not got yet.";
    STORE_BYTES = "jiexi_store_bytes", GAUGE, [], "Bytes of the materialised state on disk.";
    STORE_ERRORS = "jiexi_store_errors_total", COUNTER, ["part"], "Errors of the store, by part.";
    STORE_STATE = "jiexi_store_state", GAUGE, ["state"], "1 for the state the store is in.";
    SNAPSHOT_TIMESTAMP = "jiexi_snapshot_timestamp_seconds", GAUGE, [], "When the newest verified snapshot was taken, seconds since 1970.";
    SNAPSHOT_SEQUENCE = "jiexi_snapshot_sequence", GAUGE, [], "Sequence number of the last change that is in the newest verified snapshot; 0 without one.";
    SNAPSHOT_BYTES = "jiexi_snapshot_bytes", GAUGE, [], "Bytes of the newest verified snapshot.";
    BACKUP_TIMESTAMP = "jiexi_backup_last_success_timestamp_seconds", GAUGE, [], "When `jiexi backup create` last had everything of this node in a repository, seconds since 1970; 0 when it never had.";
    DISK_FREE = "jiexi_disk_free_bytes", GAUGE, [], "Bytes free on the disk of the store.";
    DISK_RESERVE = "jiexi_disk_reserve_bytes", GAUGE, [], "With less than this free, writes are refused.";
    AUTHENTICATIONS = "jiexi_authentications_total", COUNTER, ["method", "result"], "Proofs of identity, by method and result.";
    SESSIONS = "jiexi_sessions", GAUGE, [], "Open sessions of the Handle protocol.";
    HISTORY_LOST = "jiexi_history_lost_total", COUNTER, [], "Resolutions and changes missing in their log: too many waited, or the disk took none.";
    HISTORY_FILL = "jiexi_history_fill_ratio", GAUGE, [], "How full the fullest page of entries was of the last one or two minutes; at 1 entries are lost, alert at four fifths.";
    HISTORY_BYTES = "jiexi_history_bytes", GAUGE, [], "Bytes of the log of resolutions and changes.";
    HISTORY_BUDGET = "jiexi_history_budget_bytes", GAUGE, [], "Bytes that it may take; alert at four fifths of it.";
    HISTORY_CUT = "jiexi_history_cut_total", COUNTER, [], "Days of it removed before their time because of its budget.";
    HTTP_SESSIONS = "jiexi_http_sessions", GAUGE, [], "Open sessions of the JSON API.";
    PLAIN_CREDENTIALS = "jiexi_http_plain_credentials_total", COUNTER, [], "Requests with credentials over plain HTTP, refused without a look at them.";
    BATCHES = "jiexi_batches", GAUGE, [], "Batches that run, and jobs whose input arrives.";
    BATCH_LINES = "jiexi_batch_lines_total", COUNTER, [], "Lines of batches answered; each is a resolution, too.";
    JOBS = "jiexi_jobs", GAUGE, ["state"], "Jobs that are kept, by state; queued also those that wait, for their quota, say.";
    HANDSHAKES_FAILED = "jiexi_tls_handshakes_failed_total", COUNTER, [], "TLS handshakes that failed.";
    CERTIFICATE_EXPIRY = "jiexi_certificate_expiry_timestamp_seconds", GAUGE, ["protocol"], "When the certificate in use expires, seconds since 1970.";
    RELOAD_TIMESTAMP = "jiexi_config_last_reload_success_timestamp_seconds", GAUGE, [], "When the configuration was last read with success, seconds since 1970.";
    RELOAD_SUCCESSFUL = "jiexi_config_last_reload_successful", GAUGE, [], "1 when the last reading of the configuration, and of certificates that were replaced, succeeded, else 0.";
    TAKEN_OVER = "jiexi_taken_over", GAUGE, [], "1 when this process took over from another one, 0 when it was started alone.";
    FORWARDED = "jiexi_forwarded_total", COUNTER, ["result"], "Questions about handles at home elsewhere, by how they were answered.";
    FORWARD_FETCHES = "jiexi_forward_fetches_total", COUNTER, [], "Questions asked at other nodes; equal ones at the same time are one.";
    FORWARD_FORBIDDEN = "jiexi_forward_forbidden_total", COUNTER, [], "Servers not connected to because of the rules for addresses and ports.";
    FORWARD_WAITING = "jiexi_forward_waiting", GAUGE, [], "Requests that wait for other nodes.";
    FORWARD_CACHE_ENTRIES = "jiexi_forward_cache_entries", GAUGE, [], "Answers of other nodes remembered.";
    FORWARD_CACHE_BYTES = "jiexi_forward_cache_bytes", GAUGE, [], "Bytes that they take.";
    ROLE = "jiexi_role", GAUGE, ["role"], "1 for whose changes the node takes: its own (primary), those of another node (standby), or none any more.";
    FOLLOW_CONNECTED = "jiexi_follow_connected", GAUGE, [], "1 while a standby reaches its primary, else 0.";
    FOLLOW_LAG_SEQUENCES = "jiexi_follow_lag_sequences", GAUGE, [], "Changes that a standby lacks, as of when it last heard of its primary.";
    FOLLOW_LAG_SECONDS = "jiexi_follow_lag_seconds", GAUGE, [], "Time since a standby last had everything: so old its answers may be.";
    FOLLOW_FAILURES = "jiexi_follow_failures_total", COUNTER, [], "Connections of a standby to its primary that failed or were refused.";
    FOLLOW_SNAPSHOTS = "jiexi_follow_snapshots_total", COUNTER, [], "Snapshots that a standby took in because it could not go on by the journal.";
    PREFIXES_HOMED = "jiexi_prefixes_homed", GAUGE, [], "Prefixes homed on this node.";
}
