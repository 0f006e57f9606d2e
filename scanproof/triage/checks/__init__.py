"""Why a number failed: one module per kind of finding."""
