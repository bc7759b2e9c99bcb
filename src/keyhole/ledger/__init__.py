"""The ledger: the tables that are made from the journal, and the keys; all the SQL there is.

Modules build on each other in this order: `segments` (the journal, read), `schema`, `database`,
`keys`, `lines`, `sums` and `spans` (pure), `books`, `usage`, `posting` (journal to books),
`mirror` (what workers read of the keys). No worker imports any of it.
"""
