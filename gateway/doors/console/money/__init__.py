"""Pages of money: now, the month, statements, spend, rates, models, budgets, price rows."""
