"""``python -m mpp_jax``: the command line."""

from mpp_jax.cli import main

if __name__ == "__main__":
    main()
