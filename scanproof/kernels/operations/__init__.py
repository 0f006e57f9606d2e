"""The rows of the table of operations, a module per family; `operation_table` puts them together."""
