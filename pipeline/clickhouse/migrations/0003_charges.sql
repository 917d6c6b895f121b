CREATE TABLE IF NOT EXISTS charges
(
    charge_id String,
    kind LowCardinality(String),
    account_id LowCardinality(String),
    subject_kind LowCardinality(String),
    subject String,
    plan_id LowCardinality(Nullable(String)),
    plan_version Nullable(Int32),
    cycle LowCardinality(String),
    name LowCardinality(String),
    days Int32,
    of_days Int32,
    amount_nanos Int64,
    currency LowCardinality(String),
    closed_at DateTime64(6, 'UTC'),
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed (SELECT journal_partition, max(journal_offset) GROUP BY journal_partition)
)
ENGINE = MergeTree
ORDER BY (cycle, account_id, subject)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;
