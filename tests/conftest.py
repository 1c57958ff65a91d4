"""What holds for all tests: no deadline for an example of a property test.

How long one takes is the machine's affair: on a busy one a deadline fails what is right.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("moegate", deadline=None)
settings.load_profile("moegate")
