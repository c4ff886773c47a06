"""The tested core behind the step notebooks."""
