"""Money: dated prices, what each attempt cost, and where the bill of the own servers went."""
