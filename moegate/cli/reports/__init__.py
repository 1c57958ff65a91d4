"""Reports of `moegate usage`: a module for each, with its command and how it looks."""
