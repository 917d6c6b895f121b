-- Views over rated, rejected and gaps, as docs/tables.md describes them. Quantities are whole units of the service
-- (bytes, messages, seconds), amounts are nanos (10^-9 of the currency) and, named charge, exact decimals.

CREATE MACRO amount(nanos) AS
    (nanos::DECIMAL(29, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9);

CREATE VIEW daily AS
SELECT
    cycle, day, account_id, subject_kind, subject, service, currency,
    count(*) FILTER (kind = 'usage' AND part = 0) AS records,
    sum(quantity_raw)::BIGINT AS quantity_raw,
    sum(billable_quantity)::BIGINT AS billable_quantity,
    sum(from_test)::BIGINT AS from_test,
    sum(from_allowance)::BIGINT AS from_allowance,
    sum(from_addon)::BIGINT AS from_addon,
    sum(overage)::BIGINT AS overage,
    sum(charge_nanos)::BIGINT AS charge_nanos,
    amount(sum(charge_nanos)) AS charge
FROM rated
GROUP BY ALL;

CREATE VIEW cycles AS
SELECT
    cycle, account_id, plan_id, subject_kind, subject, service, currency,
    count(DISTINCT iccid) AS sims,
    count(*) FILTER (kind = 'usage' AND part = 0) AS records,
    count(*) FILTER (kind = 'usage' AND part = 0 AND late) AS late_records,
    count(*) FILTER (kind <> 'usage') AS adjustments,
    sum(quantity_raw)::BIGINT AS quantity_raw,
    sum(billable_quantity)::BIGINT AS billable_quantity,
    sum(from_test)::BIGINT AS from_test,
    sum(from_allowance)::BIGINT AS from_allowance,
    sum(from_addon)::BIGINT AS from_addon,
    sum(overage)::BIGINT AS overage,
    sum(charge_nanos)::BIGINT AS charge_nanos,
    amount(sum(charge_nanos)) AS charge
FROM rated
GROUP BY ALL;
