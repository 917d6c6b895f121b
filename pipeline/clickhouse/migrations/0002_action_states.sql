-- Actions with their latest result, and a way to one record without reading its cycle.

CREATE VIEW IF NOT EXISTS action_states AS
SELECT
    a.action_id AS action_id,
    a.firing_id AS firing_id,
    a.rule_id AS rule_id,
    a.sequence AS sequence,
    a.action AS action,
    a.account_id AS account_id,
    a.iccid AS iccid,
    a.parameters AS parameters,
    a.created_at AS created_at,
    multiIf(
        answers.latest.1 IN ('failed', 'refused'), 'failed',
        answers.action_id != '' OR a.action IN ('add_tag', 'set_attribute'), 'done',
        a.action IN ('notify', 'webhook'), 'told',
        'open'
    ) AS state,
    if(answers.action_id = '', NULL, answers.latest.1) AS outcome,
    answers.latest.2 AS message,
    if(answers.action_id = '', NULL, answers.latest.3) AS result_at,
    a.journal_partition AS journal_partition,
    a.journal_offset AS journal_offset
FROM actions AS a
LEFT JOIN
(
    SELECT
        assumeNotNull(r.action_id) AS action_id,
        argMax(tuple(toString(r.outcome), r.message, r.at), (r.journal_partition, r.journal_offset)) AS latest
    FROM results AS r
    WHERE r.action_id IS NOT NULL
    GROUP BY action_id
) AS answers ON answers.action_id = a.action_id;

ALTER TABLE rated ADD INDEX IF NOT EXISTS by_record_key record_key TYPE bloom_filter(0.01) GRANULARITY 1;
