"""`echowatch bench`: encoders and test sets in, figures with confidence intervals out."""

import typer

app = typer.Typer(help="Measure encoders and the engine on this machine.", no_args_is_help=True)
