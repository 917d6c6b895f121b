"""What active rules cost: `weir ingest` of a generated fleet with and without them, whole processes in alternation.

    python -m benchmarks.rules --cards 500000 --records 5000000 --pools 200 --rules 100 --rounds 3 --dir /tmp/weir-bench

The rules are of every kind of trigger, half of them of the accounts and with filters. Thresholds are those of alerts:
a few cards in a hundred pass each of them in the month, one in five that of the remaining balance. How many fired is
printed, for every firing costs too. Rules are applied and activated before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.ingest import AS_OF, WEIR, Run, generated, run

ACCOUNTS = ("alder", "birch", "cumulus")
NOTIFY = 'actions = [{ sequence = 1, type = "notify", by = ["system"], text = "{iccid}: {value} {unit}" }]'

# Every rule is one of these with an id and perhaps an owner and a filter. Of the triggers that a feed without events
# cannot meet there is one each.
TRIGGERS = (
    'trigger = "data_usage_cycle"\nthreshold = "2 GB"',
    'trigger = "data_usage_24h"\nthreshold = "500 MB"',
    'trigger = "data_usage_cycle"\nthreshold = ["300 %", "500 %"]',
    'trigger = "data_usage_24h"\nwindow = "rolling"\nthreshold = "500 MB"',
    'trigger = "pool_data_usage"\nthreshold = "80 %"',
    'trigger = "data_usage_country_cycle"\ncountry = "FR"\nthreshold = "200 MB"',
    'trigger = "data_usage_zone_cycle"\nzone = "eu"\nthreshold = "200 MB"',
    'trigger = "sms_mo_count_cycle"\nthreshold = 3',
    'trigger = "sms_mt_count_24h"\nthreshold = 1',
    'trigger = "voice_mo_duration_cycle"\nthreshold = "5 min"',
    'trigger = "voice_mt_duration_24h"\nthreshold = "2 min"',
    'trigger = "home_data_allowance"\nthreshold = "300 %"',
    'trigger = "data_session_count_24h"\nthreshold = 3',
    'trigger = "data_usage_cycle"\nmeasure = "over"\nthreshold = "1 GB"',
    'trigger = "data_usage_cycle"\nmeasure = "remaining"\nthreshold = "10 %"\nrepetition = "daily"',
    'trigger = "data_usage_cycle"\nmeasure = "hard_cut"',
    'trigger = "pool_sms_mo_usage"\nthreshold = "100 %"',
    'trigger = "price_plan_expired"\nby = "time"',
    'trigger = "imei_changed"',
    'trigger = "not_connected_cycle"',
)
FILTERS = (
    '[[rules.filters]]\ntype = "sim_status"\nvalues = ["activated"]',
    '[[rules.filters]]\ntype = "plan_type"\nvalues = ["single"]',
    '[[rules.filters]]\ntype = "rat"\nvalues = ["LTE", "NB-IoT"]',
)


def rules_toml(count: int) -> str:
    """Return a catalogue file of `count` rules: root's first, then those of the accounts, with a filter each."""
    written = []
    for number, trigger in enumerate(islice(cycle(TRIGGERS), count)):
        lines = ["[[rules]]", f'id = "bench-{number:03}"', trigger, NOTIFY]
        if number >= count // 2:
            lines.insert(2, f'owner = "{ACCOUNTS[number % len(ACCOUNTS)]}"')
            if "pool_" not in trigger:
                lines.append(FILTERS[number % len(FILTERS)])
        written.append("\n".join(lines))
    return "\n\n".join(written) + "\n"


def ingest(folder: Path, fleet: dict[str, Any], rules: Path | None) -> Run:
    """Ingest the fleet into a new data directory, with the rules of a file active, if any."""
    data = str(folder / "data")
    shutil.rmtree(data, ignore_errors=True)
    run([WEIR, "--data", data, "apply", fleet["catalogue"], fleet["cards_file"], "--json"])
    if rules is not None:
        run([WEIR, "--data", data, "apply", str(rules), "--json"])
        run([WEIR, "--data", data, "rules", "activate", "--all", "--json"])
    return run([WEIR, "--data", data, "ingest", "--feed", fleet["feed"], fleet["usage"], "--as-of", AS_OF, "--json"])


def main() -> None:
    """Measure in turn, print a table and the ratio."""
    parser = argparse.ArgumentParser(description="Time weir ingest with active rules against one without.")
    parser.add_argument("--cards", type=int, default=500_000)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rules", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to work; its fleet is used again (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as temporary:
        folder = (given.dir or Path(temporary)).resolve()
        fleet = generated(folder, given.cards, given.records, given.pools, given.seed)
        rules = folder / "rules.toml"
        rules.write_text(rules_toml(given.rules))
        plain, ruled = [], []
        for number in range(1, given.rounds + 1):
            plain.append(ingest(folder, fleet, None))
            ruled.append(ingest(folder, fleet, rules))
            print(f"round {number}: without {plain[-1].seconds:.2f} s, with {ruled[-1].seconds:.2f} s")
        shutil.rmtree(folder / "data")
    for name, runs in (("without", plain), ("with", ruled)):
        seconds = statistics.median(one.seconds for one in runs)
        cpu_seconds = statistics.median(one.cpu_seconds for one in runs)
        print(f"{name:8}{seconds:>8.2f} s{cpu_seconds:>8.2f} cpu s{max(one.peak_mib for one in runs):>8.0f} MiB")
    ratio = statistics.median(one.seconds / other.seconds for one, other in zip(ruled, plain, strict=True))
    told = json.dumps({name: ruled[-1].printed.get(name) for name in ("firings", "actions")})
    print(f"{given.rules} active rules: ratio {ratio:.2f}, median of {given.rounds} rounds; {told}")


if __name__ == "__main__":
    main()
