"""Renamed arguments and functions: the old names work for one release, with a warning.

To rename an argument, rename it in the constructor and name both in the decorator::

    class COrAL(FusionPretraining):
        @renamed_arguments(masking='mask_ratio', heads='num_heads')
        def __init__(self, ..., mask_ratio: float = 0.75, num_heads: int = 8, ...) -> None:

``COrAL(masking=0.5)`` and ``masking: 0.5`` in a config of ``torchgeo`` then still work, as does a
checkpoint that holds the old name. The constructor, and the hyperparameters of a task,
see only new names. Decorate the constructor that declares the argument: subclasses that hand on
``**options`` follow. A file read without a constructor is translated by :func:`current_names`.
For functions and classes of a public module, see :func:`renamed_names`.
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
    """Let a constructor or function accept arguments by their old names.

    Args:
        names: present name of each argument, by its old name.

    Returns:
        The decorator. What it returns warns with a ``FutureWarning`` where an old name is
        given, and raises a ``ValueError`` where the new name has another value.

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

        # The name of a constructor: collect_arguments knows its frame by it.
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
                    # Point to the line of the user, also where a subclass hands options on.
                    skip_file_prefixes=(str(Path(__file__).parent),),
                )
                kwargs[new] = value
            return function(*args, **kwargs)

        # jsonargparse accepts what the signature has. An argument that is not required and has
        # no default is absent from what it parses and writes, unless it is given.
        __init__.__signature__ = _with_old_names(signature, names)  # type: ignore[attr-defined]
        __init__.renamed = names  # type: ignore[attr-defined]
        return __init__

    return decorate


def renamed_names(module: str, **names: str) -> Callable[[str], Any]:
    """Let a module offer its functions and classes by their old names.

    Args:
        module: full name of the module.
        names: present name of each function or class, by its old name.

    Returns:
        The ``__getattr__`` of the module. It warns with a ``FutureWarning``.

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
    """Return the renamed arguments of a class and of its bases.

    Args:
        component: the class.

    Returns:
        Present name of each argument, by its old name.
    """
    names: dict[str, str] = {}
    for base in component.__mro__:
        names = {**getattr(vars(base).get('__init__'), 'renamed', {}), **names}
    return names


def current_names(component: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate old names of arguments, such as those that a checkpoint holds.

    Args:
        component: the class whose arguments they are.
        options: values by old or present name.

    Returns:
        The values by present name. The value of an old name wins: a parser adds the default
        of the present one.
    """
    names = renamed(component)
    kept = {name: value for name, value in options.items() if name not in names}
    return kept | {names[o]: value for o, value in options.items() if o in names}


def collect_arguments(frame: FrameType | None, instance: object) -> dict[str, Any]:
    """Collect the constructor arguments of an instance under construction.

    Lightning does the same, but fails if a signature lists arguments that a constructor
    does not accept.

    Args:
        frame: frame of the innermost constructor.
        instance: the instance under construction.

    Returns:
        Values by name; a value of the outermost constructor takes precedence.
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
    """Return the outermost frame that a frame runs in.

    Args:
        frame: the frame.

    Returns:
        A frame that nothing called.
    """
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _with_old_names(
    signature: inspect.Signature, names: Mapping[str, str]
) -> inspect.Signature:
    """Add the old names to a signature, each with the type of its argument."""
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
    # A parser gives the default of the new name beside the value of the old one.
    allowed = [_plain(new.default), _plain(value)]
    if new.name in given and _plain(given[new.name]) not in allowed:
        raise ValueError(
            f'{owner}: expected {new.name} or its old name {old}, found both: '
            f'{given[new.name]!r} and {value!r}; remove {old}'
        )


def _plain(value: Any) -> Any:
    """Make a list of a tuple, as a parser does."""
    return list(value) if isinstance(value, tuple) else value
