"""What a model learns: one folder for each task, of facets that belong to different layers."""

from raykd.tasks.registry import (
    BUILT_IN,
    CustomTask,
    Task,
    find_task,
    known_task,
    unknown_task,
)

__all__ = ["BUILT_IN", "CustomTask", "Task", "find_task", "known_task", "unknown_task"]
