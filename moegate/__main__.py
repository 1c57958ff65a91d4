"""`python -m moegate` does the same as the console script."""

from __future__ import annotations

from moegate.cli.main import main

raise SystemExit(main())
