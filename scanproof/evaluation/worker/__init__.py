"""The process that evaluates a job: the only place that imports torch and lm-eval for it."""
