"""Calls of the tools, in this process."""

from __future__ import annotations

from utilities import tool


def call(module, *argv) -> int:
    """The exit status of the tool in `module`."""
    words = [str(word) for word in argv]
    try:
        arguments = tool.read_arguments(module.PROGRAM, module.DESCRIPTION, module.FLAGS, words)
    except SystemExit as end:
        return end.code
    return tool.run(module.PROGRAM, module.main, arguments)
