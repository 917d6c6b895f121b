"""The catalogue compiled for a whole batch: rates, cards, pools and the sizes of allowances."""
