"""Support for renamed arguments and functions: old names still work for one release.

To rename an argument, rename it in the constructor and add both names to the decorator::

    class COrAL(FusionPretraining):
        @renamed_arguments(masking='mask_ratio', heads='num_heads')
        def __init__(self, ..., mask_ratio: float = 0.75, num_heads: int = 8, ...) -> None:

``COrAL(masking=0.5)``, ``masking: 0.5`` in a ``torchgeo`` config and checkpoints with
the old name then still work. The constructor and the stored hyperparameters use only
the new names. Decorate the constructor that declares the argument. Subclasses that
forward ``**options`` then also accept the old name. :func:`current_names` translates
options that a file stores, without calling a constructor. For functions and classes of
a public module, see :func:`renamed_names`.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NotRequired


def renamed_arguments[**P, T](
    **names: str,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a constructor or function also accept arguments under their old names.

    Args:
        names: new name of each argument, by its old name.

    Returns:
        A decorator. The decorated function issues a ``FutureWarning`` for each old
        name. It raises a ``ValueError`` if a call gives the old and the new name
        different values.

    Example:
        >>> @renamed_arguments(grey='grayscale')
        ... def augment(grayscale: float = 0.2) -> float:
        ...     return grayscale
        >>> with warnings.catch_warnings(record=True, action='always') as caught:
        ...     augment(grey=0.5)
        0.5
        >>> print(caught[0].message)
        augment: grey is deprecated and will be removed in the next release; use grayscale
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        # collect_arguments recognizes constructor frames by the name __init__.
        @wraps(function)
        def __init__(*args: Any, **kwargs: Any) -> T:
            owner = function.__name__
            if owner == '__init__':
                owner = type(args[0]).__name__
            for old in [name for name in kwargs if name in names]:
                new, value = names[old], kwargs.pop(old)
                _check_once(owner, old, value, signature.parameters[new], kwargs)
                warnings.warn(
                    f'{owner}: {old} is deprecated and will be removed in the next '
                    f'release; use {new}',
                    FutureWarning,
                    # Point to the caller's line, also for subclasses that forward
                    # **options.
                    skip_file_prefixes=(str(Path(__file__).parent),),
                )
                kwargs[new] = value
            return function(*args, **kwargs)

        # jsonargparse accepts the arguments in the signature. It omits an argument that
        # is not required and has no default.
        __init__.__signature__ = _with_old_names(signature, names)  # type: ignore[attr-defined]
        __init__.renamed = names  # type: ignore[attr-defined]
        return __init__

    return decorate


def renamed_names(module: str, **names: str) -> Callable[[str], Any]:
    """Return a module-level ``__getattr__`` for old names of functions and classes.

    Args:
        module: fully qualified name of the module.
        names: new name of each function or class, by its old name.

    Returns:
        The ``__getattr__`` function. It issues a ``FutureWarning`` for an old name.

    Example:
        >>> find = renamed_names('torchgeo_decur.deprecation', renames='renamed')
        >>> with warnings.catch_warnings(record=True, action='always') as caught:
        ...     find('renames') is renamed
        True
        >>> print(caught[0].message)
        renames is deprecated and will be removed in the next release; use renamed
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f'module {module!r} has no attribute {name!r}')
        warnings.warn(
            f'{name} is deprecated and will be removed in the next release; '
            f'use {names[name]}',
            FutureWarning,
            skip_file_prefixes=(str(Path(__file__).parent),),
        )
        return getattr(sys.modules[module], names[name])

    return find


def renamed(component: type) -> dict[str, str]:
    """Return the new name of each renamed argument of a class, by its old name."""
    names: dict[str, str] = {}
    for base in component.__mro__:
        names = {**getattr(vars(base).get('__init__'), 'renamed', {}), **names}
    return names


def current_names(component: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate old argument names, for example from a checkpoint, to current names.

    Args:
        component: class that declares the arguments.
        options: argument values by old or new name.

    Returns:
        The values by new name. A value under an old name takes precedence, because a
        parser also adds the default under the new name.
    """
    names = renamed(component)
    kept = {name: value for name, value in options.items() if name not in names}
    return kept | {names[o]: value for o, value in options.items() if o in names}


def tuples_to_lists(value: Any) -> Any:
    """Convert tuples to lists, as a parser and a checkpoint do.

    Example:
        >>> tuples_to_lists({'projector': (16, 8)})
        {'projector': [16, 8]}
    """
    if isinstance(value, Mapping):
        return {k: tuples_to_lists(v) for k, v in value.items()}
    return list(value) if isinstance(value, list | tuple) else value


def collect_arguments(frame: FrameType | None, instance: object) -> dict[str, Any]:
    """Collect the constructor arguments of an instance under construction.

    Lightning's own function fails if a signature lists arguments that the constructor
    does not accept.

    Args:
        frame: stack frame of the innermost constructor.
        instance: the instance under construction.

    Returns:
        Argument values by name. Values of the outermost constructor take precedence.
    """
    found: dict[str, Any] = {}
    while frame is not None and frame.f_code.co_name == '__init__':
        names, args, keywords, values = inspect.getargvalues(frame)
        first = values[names[0]] if names else next(iter(values[args or '']), None)
        if first is not instance:
            break
        found |= {name: values[name] for name in names[1:]}
        found |= values[keywords] if keywords else {}
        frame = frame.f_back
    return found


def outermost(frame: FrameType) -> FrameType:
    """Return the outermost frame of the call stack that contains a frame."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _with_old_names(
    signature: inspect.Signature, names: Mapping[str, str]
) -> inspect.Signature:
    """Add the old names to a signature, with the types of the new ones."""
    parameters = list(signature.parameters.values())
    rest = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    old: Iterable[inspect.Parameter] = (
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=NotRequired[signature.parameters[new].annotation],
        )
        for name, new in names.items()
    )
    own = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*own, *old, *rest])


def _check_once(
    owner: str, old: str, value: Any, new: inspect.Parameter, given: Mapping[str, Any]
) -> None:
    # If a user passes the old name, a parser also adds the default under the new name.
    allowed = [tuples_to_lists(new.default), tuples_to_lists(value)]
    if new.name in given and tuples_to_lists(given[new.name]) not in allowed:
        raise ValueError(
            f'{owner}: expected either {new.name} or its old name {old}, found both: '
            f'{given[new.name]!r} and {value!r}; remove {old}'
        )
