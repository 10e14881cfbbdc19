"""Commands about pretrained weights."""

from pathlib import Path

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.options import plugin_option, quiet_option
from mpp_jax.cli.places import PATH


@click.group()
def weights() -> None:
    """List, download, import and verify pretrained weights."""


@weights.command("list")
@plugin_option
@faces_user
def weights_list() -> int:
    """List the public weight files that are known, and which of them are in the cache."""
    from mpp_jax.weights import list_weights

    for row in list_weights():
        click.echo(f"{row['name']:<24} {row['network']:<20} {row['state']:<9} {row['note']}")
    return 0


@weights.command("download")
@click.argument("name")
@plugin_option
@quiet_option
@faces_user
def weights_download(name: str, quiet: bool) -> int:
    """Download a public weight file by NAME into the cache folder; its hash is checked."""
    from mpp_jax.weights import download_weights

    click.echo(f"weights: {download_weights(name, progress=not quiet)}")
    return 0


@weights.command("import")
@click.argument("file", type=PATH)
@click.option("--network", required=True, help="The network that the file is for.")
@click.option("--out", type=PATH, help="Folder to write. [default: where the network is looked up]")
@plugin_option
@faces_user
def weights_import(file: Path, network: str, out: Path | None) -> int:
    """Convert FILE into this package's own form.

    Afterwards NETWORK needs no --weights any more (unless --out names another folder).
    """
    from mpp_jax.weights import import_weights

    folder, audit = import_weights(file, network, out)
    click.echo(str(audit))
    click.echo(f"weights: {folder}")
    return 0


@weights.command("verify")
@click.argument("file", type=PATH)
@click.option("--network", help="The network that the file should be for. [default: any]")
@plugin_option
@faces_user
def weights_verify(file: Path, network: str | None) -> int:
    """Find out what FILE is, check it, and print what is assigned from where."""
    from mpp_jax.weights import verify_weights

    found = verify_weights(file, network)
    click.echo(f"sha256: {found.sha256}\npublic file: {found.published or 'none'}")
    click.echo(f"fits: {', '.join(found.networks) or 'no network'}")
    if found.audit is not None:
        click.echo(str(found.audit))
    for finding in found.findings:
        click.echo(f"finding: {finding}")
    if found.problem is not None:
        raise ValueError(found.problem)
    return 0
