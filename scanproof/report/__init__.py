"""From stored runs to the page, the job summary and the JSON; never the live session."""
