"""The compiled catalogue, for whole batches: rates, cards, pools and the sizes of allowances."""
