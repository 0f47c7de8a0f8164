# SPDX-License-Identifier: GPL-2.0-or-later
"""The project's own helper modules, from scripts/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'scripts'))

import cross        # noqa: E402,F401
import debian       # noqa: E402,F401
import layout       # noqa: E402,F401
import ui           # noqa: E402,F401
