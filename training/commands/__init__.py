"""The subcommands of ``python -m training``, one file each; see :mod:`training.cli`."""
