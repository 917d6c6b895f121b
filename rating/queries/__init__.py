"""Questions about the state: cards, pools, fees, rules, and why a record cost what it cost."""
