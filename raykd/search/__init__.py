"""The search: a space (pure), rules for stopping (pure), Ray Tune (a shell), and what comes of it."""
