"""What the ledger costs, and how long its reports take."""
