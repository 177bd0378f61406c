"""The subcommands of ``cascade-rt``, one file each; see :mod:`cascade_rt.cli`."""
