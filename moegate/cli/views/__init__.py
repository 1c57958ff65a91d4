"""`moegate plan`: its arguments, and the plan as tables, JSON and a picture."""
