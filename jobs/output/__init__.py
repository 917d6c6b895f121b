"""How values are printed: console, safe text, quantities, amounts and JSON rows."""
