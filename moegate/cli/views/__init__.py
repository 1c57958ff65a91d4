"""Views of the command line: messages and plans as tables, text, JSON, figures and files."""
