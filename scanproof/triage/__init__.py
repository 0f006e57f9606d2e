"""Why a number failed: ordered findings, each with its evidence and the next command."""
