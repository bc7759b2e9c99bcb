"""The ledger: the tables that are made from the journal, and the keys; all the SQL there is.

Modules build on each other in this order: `schema`, `database`, `keys` and `words`, `lines`, `sums`
and `spans` (pure), `segments` (the journal, read), `books`, `usage`, `posting` (journal to books),
`mirror` (what workers read of the keys), `reflecting` (ledger to mirror). A worker imports
`segments` alone, which knows no SQL, for what the journal holds behind the mirror.
"""
