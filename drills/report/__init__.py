"""What a drill found: the report's model, and the forms in which it is told."""
