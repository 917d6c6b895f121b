-- The tables of the history and their totals (docs/clickhouse.md, docs/tables.md).
--
-- Each statement may run again after a crash. A part of a table is durable before its landing is marked: fsync. The
-- projection `landed` says, from a few bytes a part, how far each table has taken each journal partition.

CREATE TABLE IF NOT EXISTS landed
(
    `table` LowCardinality(String),
    journal_partition Int32,
    next_offset Int64,
    landed_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (`table`, journal_partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rated
(
    record_key String,
    part Int16,
    kind LowCardinality(String),
    feed LowCardinality(String),
    account_id LowCardinality(String),
    iccid String,
    subject_kind LowCardinality(String),
    subject String,
    service LowCardinality(String),
    direction LowCardinality(String),
    used_at DateTime64(6, 'UTC'),
    cycle LowCardinality(String),
    day Date32,
    plan_id LowCardinality(String),
    plan_version Int32,
    rate LowCardinality(String),
    zone LowCardinality(Nullable(String)),
    country LowCardinality(Nullable(String)),
    plmn LowCardinality(Nullable(String)),
    volume_up_bytes Nullable(Int64),
    volume_down_bytes Nullable(Int64),
    quantity_raw Int64,
    billable_quantity Int64,
    from_test Int64,
    from_allowance Int64,
    from_addon Int64,
    overage Int64,
    charge_nanos Int64,
    currency LowCardinality(String),
    late Bool,
    counter_before Int64,
    counter_after Int64,
    overage_before Int64,
    session_id Nullable(String),
    received_at DateTime64(6, 'UTC'),
    source LowCardinality(String),
    source_row Int64,
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed
    (
        SELECT cycle, journal_partition, max(journal_offset) GROUP BY cycle, journal_partition
    )
)
ENGINE = MergeTree
PARTITION BY cycle
ORDER BY (account_id, service, iccid, used_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS rejected_rows
(
    reject_id String,
    feed LowCardinality(String),
    source LowCardinality(String),
    source_row Int64,
    received_at DateTime64(6, 'UTC'),
    reason LowCardinality(String),
    field LowCardinality(Nullable(String)),
    message Nullable(String),
    record_key Nullable(String),
    raw Nullable(String),
    raw_header Nullable(String),
    -- Where the row landed: rejected lines have no place in the journal. The view has the other columns.
    landed_partition Int32,
    landed_offset Int64,
    PROJECTION landed (SELECT landed_partition, max(landed_offset) GROUP BY landed_partition)
)
ENGINE = MergeTree
ORDER BY (feed, reason, received_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS rejected AS
SELECT * EXCEPT (landed_partition, landed_offset) FROM rejected_rows;

CREATE TABLE IF NOT EXISTS gaps
(
    feed LowCardinality(String),
    session_id Nullable(String),
    iccid Nullable(String),
    service LowCardinality(Nullable(String)),
    after_sequence Nullable(Int64),
    before_sequence Nullable(Int64),
    missing Int64,
    received_at Nullable(DateTime64(6, 'UTC')),
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed (SELECT journal_partition, max(journal_offset) GROUP BY journal_partition)
)
ENGINE = MergeTree
ORDER BY (feed, journal_partition, journal_offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS firings
(
    firing_id String,
    rule_id LowCardinality(String),
    kind LowCardinality(String),
    trigger LowCardinality(Nullable(String)),
    owner LowCardinality(Nullable(String)),
    account_id LowCardinality(Nullable(String)),
    iccid Nullable(String),
    pool_id LowCardinality(Nullable(String)),
    window LowCardinality(Nullable(String)),
    unit LowCardinality(Nullable(String)),
    value_before Nullable(Int64),
    value_now Nullable(Int64),
    size Nullable(Int64),
    threshold Nullable(Int64),
    levels Array(String),
    from_value Nullable(String),
    to_value Nullable(String),
    used_at Nullable(DateTime64(6, 'UTC')),
    record_key Nullable(String),
    fired_at DateTime64(6, 'UTC'),
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed (SELECT journal_partition, max(journal_offset) GROUP BY journal_partition)
)
ENGINE = MergeTree
ORDER BY (rule_id, fired_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS actions
(
    action_id String,
    firing_id String,
    rule_id LowCardinality(String),
    sequence Int32,
    action LowCardinality(String),
    account_id LowCardinality(Nullable(String)),
    iccid Nullable(String),
    parameters LowCardinality(Nullable(String)),
    created_at DateTime64(6, 'UTC'),
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed (SELECT journal_partition, max(journal_offset) GROUP BY journal_partition)
)
ENGINE = MergeTree
ORDER BY (rule_id, created_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS results
(
    action_id Nullable(String),
    iccid Nullable(String),
    outcome LowCardinality(String),
    message Nullable(String),
    at DateTime64(6, 'UTC'),
    journal_partition Int32,
    journal_offset Int64,
    PROJECTION landed (SELECT journal_partition, max(journal_offset) GROUP BY journal_partition)
)
ENGINE = MergeTree
ORDER BY at
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

-- Totals. An account is in one journal partition, so that column adds no rows. `last_offset` says which rows a part
-- contains. Sums have 128 bits, for sums of 64-bit numbers wrap around in silence.

CREATE TABLE IF NOT EXISTS daily_totals
(
    cycle LowCardinality(String),
    day Date32,
    account_id LowCardinality(String),
    subject_kind LowCardinality(String),
    subject String,
    service LowCardinality(String),
    currency LowCardinality(String),
    journal_partition Int32,
    records SimpleAggregateFunction(sum, UInt64),
    quantity_raw SimpleAggregateFunction(sum, Int128),
    billable_quantity SimpleAggregateFunction(sum, Int128),
    from_test SimpleAggregateFunction(sum, Int128),
    from_allowance SimpleAggregateFunction(sum, Int128),
    from_addon SimpleAggregateFunction(sum, Int128),
    overage SimpleAggregateFunction(sum, Int128),
    charge_nanos SimpleAggregateFunction(sum, Int128),
    last_offset SimpleAggregateFunction(max, Int64),
    PROJECTION landed
    (
        SELECT cycle, journal_partition, max(last_offset) GROUP BY cycle, journal_partition
    )
)
ENGINE = AggregatingMergeTree
PARTITION BY cycle
ORDER BY (account_id, service, day, subject_kind, subject, currency, journal_partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000,
    deduplicate_merge_projection_mode = 'rebuild';

CREATE TABLE IF NOT EXISTS cycle_totals
(
    cycle LowCardinality(String),
    account_id LowCardinality(String),
    plan_id LowCardinality(String),
    subject_kind LowCardinality(String),
    subject String,
    service LowCardinality(String),
    currency LowCardinality(String),
    journal_partition Int32,
    sims AggregateFunction(uniqExact, String),
    records SimpleAggregateFunction(sum, UInt64),
    late_records SimpleAggregateFunction(sum, UInt64),
    adjustments SimpleAggregateFunction(sum, UInt64),
    quantity_raw SimpleAggregateFunction(sum, Int128),
    billable_quantity SimpleAggregateFunction(sum, Int128),
    from_test SimpleAggregateFunction(sum, Int128),
    from_allowance SimpleAggregateFunction(sum, Int128),
    from_addon SimpleAggregateFunction(sum, Int128),
    overage SimpleAggregateFunction(sum, Int128),
    charge_nanos SimpleAggregateFunction(sum, Int128),
    last_offset SimpleAggregateFunction(max, Int64),
    PROJECTION landed
    (
        SELECT cycle, journal_partition, max(last_offset) GROUP BY cycle, journal_partition
    )
)
ENGINE = AggregatingMergeTree
PARTITION BY cycle
ORDER BY (account_id, plan_id, service, subject_kind, subject, currency, journal_partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000,
    deduplicate_merge_projection_mode = 'rebuild';

CREATE MATERIALIZED VIEW IF NOT EXISTS daily_feed TO daily_totals AS
SELECT
    cycle, day, account_id, subject_kind, subject, service, currency, journal_partition,
    countIf(kind = 'usage' AND part = 0) AS records,
    sum(toInt128(rated.quantity_raw)) AS quantity_raw,
    sum(toInt128(rated.billable_quantity)) AS billable_quantity,
    sum(toInt128(rated.from_test)) AS from_test,
    sum(toInt128(rated.from_allowance)) AS from_allowance,
    sum(toInt128(rated.from_addon)) AS from_addon,
    sum(toInt128(rated.overage)) AS overage,
    sum(toInt128(rated.charge_nanos)) AS charge_nanos,
    max(journal_offset) AS last_offset
FROM rated
GROUP BY cycle, day, account_id, subject_kind, subject, service, currency, journal_partition;

CREATE MATERIALIZED VIEW IF NOT EXISTS cycles_feed TO cycle_totals AS
SELECT
    cycle, account_id, plan_id, subject_kind, subject, service, currency, journal_partition,
    uniqExactState(iccid) AS sims,
    countIf(kind = 'usage' AND part = 0) AS records,
    countIf(kind = 'usage' AND part = 0 AND late) AS late_records,
    countIf(kind != 'usage') AS adjustments,
    sum(toInt128(rated.quantity_raw)) AS quantity_raw,
    sum(toInt128(rated.billable_quantity)) AS billable_quantity,
    sum(toInt128(rated.from_test)) AS from_test,
    sum(toInt128(rated.from_allowance)) AS from_allowance,
    sum(toInt128(rated.from_addon)) AS from_addon,
    sum(toInt128(rated.overage)) AS overage,
    sum(toInt128(rated.charge_nanos)) AS charge_nanos,
    max(journal_offset) AS last_offset
FROM rated
GROUP BY cycle, account_id, plan_id, subject_kind, subject, service, currency, journal_partition;

-- What analysts read: the columns of the views of the same names in docs/tables.md. A sum past 64 bits is an error.

CREATE VIEW IF NOT EXISTS daily AS
SELECT
    cycle, day, account_id, subject_kind, subject, service, currency,
    accurateCast(sum(t.records), 'Int64') AS records,
    accurateCast(sum(t.quantity_raw), 'Int64') AS quantity_raw,
    accurateCast(sum(t.billable_quantity), 'Int64') AS billable_quantity,
    accurateCast(sum(t.from_test), 'Int64') AS from_test,
    accurateCast(sum(t.from_allowance), 'Int64') AS from_allowance,
    accurateCast(sum(t.from_addon), 'Int64') AS from_addon,
    accurateCast(sum(t.overage), 'Int64') AS overage,
    accurateCast(sum(t.charge_nanos), 'Int64') AS charge_nanos,
    toDecimal128(sum(t.charge_nanos), 0) * toDecimal128('0.000000001', 9) AS charge
FROM daily_totals AS t
GROUP BY cycle, day, account_id, subject_kind, subject, service, currency;

CREATE VIEW IF NOT EXISTS cycles AS
SELECT
    cycle, account_id, plan_id, subject_kind, subject, service, currency,
    accurateCast(uniqExactMerge(t.sims), 'Int64') AS sims,
    accurateCast(sum(t.records), 'Int64') AS records,
    accurateCast(sum(t.late_records), 'Int64') AS late_records,
    accurateCast(sum(t.adjustments), 'Int64') AS adjustments,
    accurateCast(sum(t.quantity_raw), 'Int64') AS quantity_raw,
    accurateCast(sum(t.billable_quantity), 'Int64') AS billable_quantity,
    accurateCast(sum(t.from_test), 'Int64') AS from_test,
    accurateCast(sum(t.from_allowance), 'Int64') AS from_allowance,
    accurateCast(sum(t.from_addon), 'Int64') AS from_addon,
    accurateCast(sum(t.overage), 'Int64') AS overage,
    accurateCast(sum(t.charge_nanos), 'Int64') AS charge_nanos,
    toDecimal128(sum(t.charge_nanos), 0) * toDecimal128('0.000000001', 9) AS charge
FROM cycle_totals AS t
GROUP BY cycle, account_id, plan_id, subject_kind, subject, service, currency;
