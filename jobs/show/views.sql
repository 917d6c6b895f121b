-- Views over the tables of the history, as docs/tables.md describes them. Quantities are whole units of the service
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

CREATE VIEW action_states AS
SELECT
    actions.action_id, firing_id, rule_id, sequence, action, account_id, actions.iccid, parameters, created_at,
    CASE
        WHEN latest.outcome IN ('failed', 'refused') THEN 'failed'
        WHEN latest IS NOT NULL OR action IN ('add_tag', 'set_attribute') THEN 'done'
        WHEN action IN ('notify', 'webhook') THEN 'told' -- which waits for no answer
        ELSE 'open'
    END AS state,
    latest.outcome AS outcome,
    latest.message AS message,
    latest.moment AS result_at,
    actions.journal_partition, actions.journal_offset
FROM actions
LEFT JOIN (
    SELECT
        action_id,
        arg_max(
            struct_pack(outcome := outcome::VARCHAR, message := message, moment := "at"),
            (journal_partition, journal_offset)
        ) AS latest
    FROM results
    WHERE action_id IS NOT NULL
    GROUP BY action_id
) AS answers ON answers.action_id = actions.action_id;
