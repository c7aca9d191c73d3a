"""Classes that take type arguments, as those of the standard library do: ``Queue[int]``."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import pkgutil
from typing import Any, get_args, get_origin

import procession
import pytest
from procession import pool, queues


def takes_arguments(thing: Any) -> bool:
    try:
        return isinstance(thing, type) and get_args(thing[int]) == (int,)
    except (TypeError, AttributeError):
        # AttributeError: the class of a proxy may have a method of that name, for its objects.
        return False


def subscriptable() -> list[tuple[str, str]]:
    """The modules and names of the standard library's package that can be subscripted."""
    found = []
    for module in pkgutil.walk_packages(multiprocessing.__path__, "multiprocessing."):
        if "win32" in module.name:
            continue
        public = vars(importlib.import_module(module.name))
        names = [name for name, thing in public.items() if takes_arguments(thing)]
        found += [(module.name.removeprefix("multiprocessing."), name) for name in names]
    return found


def test_there_is_something_to_compare_with() -> None:
    assert {("queues", "SimpleQueue"), ("pool", "AsyncResult")} <= set(subscriptable())


@pytest.mark.parametrize(("module", "name"), subscriptable())
def test_what_the_standard_library_can_subscript_can_be(module: str, name: str) -> None:
    ours: Any = procession
    for part in module.split("."):
        ours = getattr(ours, part)
    assert takes_arguments(getattr(ours, name, None))


GENERIC: list[Any] = [
    queues.Queue,
    queues.JoinableQueue,
    queues.SimpleQueue,
    pool.ApplyResult,
    pool.AsyncResult,
    pool.MapResult,
    pool.IMapIterator,
    pool.IMapUnorderedIterator,
]


@pytest.mark.parametrize("kind", GENERIC)
def test_a_subscription_is_an_annotation_of_the_class(kind: Any) -> None:
    assert get_origin(kind[int]) is kind
    assert repr(kind[int]) == f"{kind.__module__}.{kind.__qualname__}[int]"
    assert pickle.loads(pickle.dumps(kind[int])) == kind[int]


@pytest.mark.parametrize("kind", [queues.Queue, queues.JoinableQueue, queues.SimpleQueue])
def test_a_subscribed_class_makes_objects_of_it(kind: Any) -> None:
    queue = kind[int](ctx=procession.get_context())
    assert type(queue) is kind
    queue.put(1)
    assert queue.get() == 1
