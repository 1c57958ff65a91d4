"""Which process of a cluster leads, decided by a row in PostgreSQL."""
