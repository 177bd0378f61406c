"""Rules that decide, while an experiment runs, when something is to happen; see docs/triggers.md.

====================  =============================================================================================
``rules``             what a rule is
``rulefile``          rules from a YAML file, each mistake with its line
``deciding``          rules applied to results, column by column
``plugin``            a user's own class, in a process of its own (``plugin_worker``)
``host``              all of it together, as the runner wants it
====================  =============================================================================================
"""

from __future__ import annotations

__all__: list[str] = []
