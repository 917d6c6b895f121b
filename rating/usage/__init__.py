"""The path of a usage batch: accept it, find its cycles, allocate allowances, price, and make rated rows."""
