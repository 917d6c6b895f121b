-- What an adjustment belongs to and why it was made, and what else the price of a record depends on.

ALTER TABLE rated
    ADD COLUMN IF NOT EXISTS adjusts_cycle LowCardinality(Nullable(String)) AFTER journal_offset,
    ADD COLUMN IF NOT EXISTS because LowCardinality(Nullable(String)) AFTER adjusts_cycle,
    ADD COLUMN IF NOT EXISTS cause Nullable(String) AFTER because,
    ADD COLUMN IF NOT EXISTS started_at Nullable(DateTime64(6, 'UTC')) AFTER cause,
    ADD COLUMN IF NOT EXISTS ended_at Nullable(DateTime64(6, 'UTC')) AFTER started_at,
    ADD COLUMN IF NOT EXISTS named_zone LowCardinality(Nullable(String)) AFTER ended_at,
    ADD COLUMN IF NOT EXISTS sequence Nullable(Int64) AFTER named_zone,
    ADD COLUMN IF NOT EXISTS reported_quantity Nullable(Int64) AFTER sequence,
    ADD COLUMN IF NOT EXISTS reported_up_bytes Nullable(Int64) AFTER reported_quantity,
    ADD COLUMN IF NOT EXISTS reported_down_bytes Nullable(Int64) AFTER reported_up_bytes,
    ADD COLUMN IF NOT EXISTS ends_session Nullable(Bool) AFTER reported_down_bytes,
    ADD COLUMN IF NOT EXISTS counter_bits Nullable(Int64) AFTER ends_session;
