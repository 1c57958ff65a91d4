"""What holds for all tests: no deadline for an example of a property test.

How long one takes is the machine's affair: on a busy one a deadline fails what is right. With
MOEGATE_SAME_EXAMPLES in the environment property tests draw the same examples each time.
"""

from __future__ import annotations

import os

from hypothesis import settings

same = "MOEGATE_SAME_EXAMPLES" in os.environ
settings.register_profile("moegate", deadline=None, derandomize=same)
settings.load_profile("moegate")
