"""Make the page, the job summary, the JSON and the text of tables; all from stored runs, not from a live session."""
