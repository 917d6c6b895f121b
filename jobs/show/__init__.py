"""Read commands: cards, pools, rules, explanations and SQL."""
