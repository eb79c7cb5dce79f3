"""Import classes by the paths in a config."""

from importlib import import_module
from typing import Any


def import_class(
    option: str, path: Any, example: str, base: type[Any] = object
) -> type[Any]:
    """Import a class by its path.

    Args:
        option: name of the option, for error messages.
        path: import path of the class.
        example: import path of another class, for error messages.
        base: required base class.

    Returns:
        The class.

    Raises:
        ValueError: if the class does not exist or is not a subclass of ``base``.

    Example:
        >>> import_class('dataset', 'collections.OrderedDict', '', dict).__name__
        'OrderedDict'
    """
    module, _, attribute = str(path).rpartition('.')
    try:
        found = getattr(import_module(module), attribute)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f'{option} must be the import path of a class such as {example}, got {path!r} '
            f'({error})'
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        parent = f'{base.__module__}.{base.__qualname__}'
        kind = 'class' if base is object else f'subclass of {parent}'
        raise ValueError(f'{option} must be a {kind}, got {path!r}')
    return found
