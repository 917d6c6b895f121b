"""What commands show: cards, pools, rules, explanations and SQL."""
