"""The next token of a text, from the tokens before it."""
