"""Import this before transformers: it keeps scikit-learn, and pandas and pyarrow behind it, out of a phase that does not use them.

transformers imports it for assisted generation, which nobody does here, and that is a quarter of the seconds from a phase's start to its
first tensor. Whoever wants scikit-learn afterwards gets it.
"""

import importlib
import sys

UNUSED = "sklearn"
ASKS = "transformers.generation.candidate_generator"

if not {UNUSED, ASKS} & set(sys.modules):
    sys.modules[UNUSED] = None  # type: ignore[assignment]
    try:
        importlib.import_module(ASKS)
    finally:
        del sys.modules[UNUSED]
