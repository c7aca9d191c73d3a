"""The default context, for the modules on which contexts rest.

`procession.context` makes it and puts it here. Every import of this package imports that module
first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .context import DefaultContext

_context: DefaultContext


def set_default_context(context: DefaultContext) -> None:
    """Set the default context."""
    global _context
    _context = context


def default_context() -> DefaultContext:
    """Return the default context."""
    return _context


def force_start_method(method: str) -> None:
    """Have the default context use a start method, whatever was chosen before."""
    _context._actual_context = _context.get_context(method)
