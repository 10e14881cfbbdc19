"""``python -m mpp_jax`` and the script ``mpp-jax``: the command line."""


def main() -> None:
    """Run the command line; interrupted while it is imported, end as it does, with status 130."""
    try:
        from mpp_jax.cli.app import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
