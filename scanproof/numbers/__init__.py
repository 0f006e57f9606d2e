"""The published numbers, and the arithmetic that judges them: pure, without heavy imports."""
