"""Commands that put questions to models and rules, and what those need."""
