"""Money: dated prices, the ledger of attempts, budgets, and the bill of the self-hosted servers."""
