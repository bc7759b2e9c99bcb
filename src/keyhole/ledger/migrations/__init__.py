"""The steps that made the ledger's tables, oldest first, for Alembic; forward only.

A step that has been released is never changed. It does not import `schema`, which is of today.
Nothing here opens a database: `database.Database.migrate` runs them, all in one transaction.
"""
