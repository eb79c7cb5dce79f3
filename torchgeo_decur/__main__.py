"""Run the `torchgeo-decur` command as `python -m torchgeo_decur`."""

from .cli import main

if __name__ == '__main__':
    main()
